"""Explanations as a live object: a sequence that a terminal and a notebook show, and that is saved as a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from ....core.counts import counted
from ....core.explanation.explanation import Explanation
from ....core.explanation.gallery import Gallery, strongest
from ....core.system.owned_folders import claim_file


class Explanations(Sequence[Explanation]):
    """Explanations of samples of one model, in order.

    ``print`` shows the strongest part of each, a notebook shows them as pictures, and ``save`` writes a page.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery

    @overload
    def __getitem__(self, index: int) -> Explanation: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Explanation]: ...

    def __getitem__(self, index: int | slice) -> Explanation | Sequence[Explanation]:
        found = [item.explanation for item in self.gallery.items]
        return found[index]

    def __len__(self) -> int:
        return len(self.gallery.items)

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Write the explanations as an ``.html`` page, a ``.png`` picture, or the arrays as ``.npz``.

        Args:
            force: replace an existing file.

        Raises:
            UserError: the suffix is wrong, or the file exists.
            StorageError: the disk is full or not writable.
        """
        from ....benchmarks.report.explanation_page import require_form, write_gallery

        require_form(Path(path))
        claim_file(Path(path), force)
        write_gallery(self.gallery, Path(path))
        return Path(path)

    def _lines(self) -> Iterator[str]:
        from ....benchmarks.report.explanation_page import title_of

        for item in self.gallery.items:
            found = item.explanation
            doubt = "" if found.evidence else f" (no evidence: {found.reason})"
            yield f"sample {item.row}: {title_of(found)}, by {strongest(item, self.gallery.signature)}{doubt}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        return f"{counted(self.gallery.items, 'explanation')} of {self.gallery.model}\n{self}"

    def _repr_html_(self) -> str:
        from ....benchmarks.report.explanation_page import sheet

        return f'<img alt="explanations" src="data:image/png;base64,{b64encode(sheet(self.gallery)).decode()}">'
