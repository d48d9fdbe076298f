"""Students made from their teacher, as text: ``layers:3``, ``blocks:0.5``, ``macs:0.3``, or several of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError
from .recipe import nearest

WIDTHS = ("macs", "parameters", "size")
"""Shares of the teacher's cost to which pruning makes a student narrower."""
DEPTHS = ("layers", "blocks")
_ITEM = re.compile(r"([A-Za-z_]+):(\d+(?:\.\d+)?%?)")
_FORM = "layers:3, blocks:0.5, macs:0.3, or several of them joined by commas"


@dataclass(frozen=True)
class Depth:
    """How many layers or blocks are kept.

    Attributes:
        count: their number; None if it is a share.
        share: their share, above 0 and up to 1; None if it is a number.
    """

    count: int | None = None
    share: float | None = None

    def of(self, total: int) -> int:
        """The number that is kept of ``total``: at least one, and at most all."""
        asked = self.count if self.count is not None else round((self.share or 0) * total)
        return min(max(asked, 1), total)


@dataclass(frozen=True)
class StudentForm:
    """How a student is made from its teacher: first its depth, then its width.

    Attributes:
        layers: equal layers that are kept, evenly spread over each stack (DistilBERT; Sanh et al., 2019).
        blocks: residual blocks that are kept, the most important ones by measurement.
        width: the cost of which a share is kept by pruning channels, and the share.
    """

    layers: Depth | None = None
    blocks: Depth | None = None
    width: tuple[str, float] | None = None


def is_student_form(source: str) -> bool:
    """Whether the source of a student is a way to make it from its teacher, and not a model."""
    items = [_ITEM.fullmatch(item.strip()) for item in source.split(",")]
    return bool(items) and all(items)


def student_form(source: str) -> StudentForm | None:
    """Read a way to make a student from its teacher; None if ``source`` names a model.

    Raises:
        UserError: a name is unknown or given twice, or a number is out of range.
    """
    if not is_student_form(source):
        return None
    found: dict[str, str] = {}
    for item in source.split(","):
        name, _, value = item.strip().partition(":")
        if name not in (*DEPTHS, *WIDTHS):
            raise UserError(
                f"student '{source}': '{name}' is unknown{nearest(name, [*DEPTHS, *WIDTHS])}", f"give {_FORM}"
            )
        if name in found or (name in WIDTHS and any(other in WIDTHS for other in found)):
            raise UserError(f"student '{source}': two numbers for the same thing", f"give {_FORM}")
        found[name] = value
    if all(name in found for name in DEPTHS):
        raise UserError(
            f"student '{source}': `layers` and `blocks` both choose the depth",
            "give `layers` to keep layers that are evenly spread, or `blocks` to keep those that matter most",
        )
    depths = {name: _depth(source, found[name]) for name in DEPTHS if name in found}
    widths = [(name, _share(source, found[name])) for name in WIDTHS if name in found]
    return StudentForm(**depths, width=widths[0] if widths else None)


def _depth(source: str, text: str) -> Depth:
    if "." in text or text.endswith("%"):
        return Depth(share=_share(source, text))
    if int(text) < 1:
        raise UserError(f"student '{source}': a student has at least one layer", f"give {_FORM}")
    return Depth(count=int(text))


def _share(source: str, text: str) -> float:
    value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise UserError(f"student '{source}': {text} is no share of the teacher", "give a share between 0 and 1")
    return value
