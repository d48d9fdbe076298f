"""Explanations for people to read: one HTML page, one picture, or the arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes

from ...core.counts import counted
from ...core.errors import UserError
from ...core.explanation.explanation import Explanation, Heatmap
from ...core.explanation.gallery import Gallery, Item, feature_names, is_text, strongest, token_texts
from ...core.system.atomic_files import write_atomically
from ...core.tensors import Array
from .drawing import axes, drawn
from .heatmap_drawing import (
    LIGHT,
    MOST_BARS,
    coloured,
    draw_bars,
    draw_deletion,
    draw_sequence,
    draw_signal,
    flat,
    flat_sample,
    overlaid,
    png_address,
)

TEMPLATE = "explanation.html.jinja"
FORMS = (".html", ".png", ".npz")
_BAR, _FRAME = 24, 62


def write_gallery(gallery: Gallery, path: Path) -> None:
    """Write explanations as ``.html``, ``.png`` or ``.npz``.

    Raises:
        UserError: the suffix is none of these.
        StorageError: the disk is full or not writable.
    """
    require_form(path)
    written = {
        ".html": lambda: render(gallery).encode(),
        ".png": lambda: sheet(gallery),
        ".npz": lambda: arrays(gallery),
    }
    write_atomically(path, written[path.suffix]())


def require_form(path: Path) -> None:
    """Fail if the form of explanations does not follow from the ending of a path.

    Raises:
        UserError: it does not.
    """
    if path.suffix not in FORMS:
        raise UserError(f"{path} has no ending that says its form", f"give a path that ends in {', '.join(FORMS)}")


def arrays(gallery: Gallery) -> bytes:
    """The heatmaps and scores as npz: one ``N.heatmap.INPUT`` and ``N.sample.INPUT`` for each explanation."""
    found: dict[str, Array] = {}
    for number, item in enumerate(gallery.items):
        for name, heatmap in item.explanation.heatmaps.items():
            found[f"{number}.heatmap.{name}"] = heatmap.values
            found[f"{number}.sample.{name}"] = item.sample[name]
        found[f"{number}.score"] = np.array(item.explanation.score)
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **found)
    return written.getvalue()


def render(gallery: Gallery) -> str:
    """The page as HTML text; it loads nothing from the network."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files(__package__) / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        gallery=gallery, cards=[_card(item, gallery) for item in gallery.items], summary=_summary(gallery)
    )


def _summary(gallery: Gallery) -> str:
    rows = {item.row for item in gallery.items}
    silent = sum(not item.explanation.evidence for item in gallery.items)
    doubt = f" {counted(silent, 'explanation')} of {len(gallery.items)} say no more than chance." if silent else ""
    return f"{counted(rows, 'sample')} of {gallery.source}.{doubt}"


def _card(item: Item, gallery: Gallery) -> dict[str, Any]:
    found = item.explanation
    return {
        "item": item,
        "found": found,
        "title": title_of(found),
        "strongest": strongest(item, gallery.signature),
        "facts": _facts(found),
        "parts": [_part(item, gallery, name) for name in found.heatmaps],
        "curve": _curve(found),
    }


def title_of(found: Explanation) -> str:
    """``'seven', 98.2 %``."""
    chance = "" if found.probability is None else f", {percent(found.probability)}"
    return f"{found.title}{chance}"


def percent(share: float) -> str:
    """A probability; never rounded to certainty."""
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _facts(found: Explanation) -> dict[str, str]:
    baselines = dict.fromkeys(heatmap.baseline for heatmap in found.heatmaps.values())
    return {
        "score": f"{found.score:.4g} ({found.scale})",
        "without any part": f"{found.baseline_score:.4g}",
        "method": found.method.replace("-", " "),
        "baseline": "; ".join(baselines),
        "evaluations": f"{found.used:,} of at most {found.budget:,}",
    }


def _part(item: Item, gallery: Gallery, name: str) -> dict[str, Any]:
    """What the template shows of one input: pictures, drawings or tokens."""
    heatmap, sample = item.explanation.heatmaps[name], item.sample[name]
    most = float(np.abs(heatmap.values).max(initial=0.0))
    part: dict[str, Any] = {"name": name, "kind": heatmap.kind, "pictures": [], "drawings": [], "tokens": []}
    if heatmap.kind in ("image", "volume"):
        shown, values = flat_sample(sample, heatmap, name, gallery.signature), flat(heatmap)
        top = float(np.abs(values).max(initial=0.0))
        part["pictures"] = [
            ("the sample", png_address(shown)),
            ("what counts", png_address(overlaid(shown, values, top))),
        ]
        part["small"] = max(shown.shape[:2]) < 64
    elif heatmap.kind == "tokens":
        texts = token_texts(item, gallery.signature, name)
        part["letters"] = is_text(item, gallery.signature, name)
        part["tokens"] = _tokens(texts, heatmap, most)
    else:
        part["drawings"] = _drawings(heatmap, sample, gallery, name, most)
    return part


def _tokens(texts: Sequence[str], heatmap: Heatmap, most: float) -> list[dict[str, str]]:
    used = int(np.flatnonzero(heatmap.values)[-1]) + 1 if heatmap.values.any() else 0
    colours = coloured(heatmap.values, most)
    return [
        {
            "blank": text[: len(text) - len(text.lstrip())] if text.strip() else "",
            "text": text.lstrip() or text,
            "style": f"rgba({colour[0]},{colour[1]},{colour[2]},{colour[3] / 255:.3f})",
            "value": f"{value:+.3g}",
        }
        for text, colour, value in list(zip(texts, colours.tolist(), heatmap.values.tolist(), strict=True))[
            : max(used, len(_trimmed(texts)))
        ]
    ]


def _trimmed(texts: Sequence[str]) -> Sequence[str]:
    """Tokens without the padding at their end."""
    last = max((index for index, text in enumerate(texts) if text not in ("", "0", "�")), default=-1)
    return texts[: last + 1]


def _drawings(heatmap: Heatmap, sample: Array, gallery: Gallery, name: str, most: float) -> list[tuple[str, str]]:
    def bars(ax: Axes) -> None:
        draw_bars(ax, _labels(gallery, name, sample), heatmap.values.reshape(-1))

    if heatmap.kind == "table":
        return [("", _svg(_FRAME + _BAR * min(MOST_BARS, heatmap.values.size), bars, f"attributions of {name}"))]
    if heatmap.kind == "signal":
        shown = _svg(220, lambda ax: draw_signal(ax, sample, heatmap.values, most), f"{name} and its attributions")
        return [("", shown)]
    names = [f"feature {index}" for index in range(sample.shape[1])]
    height = _FRAME + max(90, 17 * min(len(names), MOST_BARS))
    values = sample.astype(np.float64)
    return [
        ("the sample", _svg(height, lambda ax: draw_sequence(ax, values, names, None), f"{name}")),
        ("what counts", _svg(height, lambda ax: draw_sequence(ax, heatmap.values, names, most), f"parts of {name}")),
    ]


def _labels(gallery: Gallery, name: str, sample: Array) -> list[str]:
    values = sample.reshape(-1).tolist()
    names = feature_names(gallery.signature, name, len(values))
    return [f"{label} = {value:.4g}" for label, value in zip(names, values, strict=True)]


def _curve(found: Explanation) -> str:
    deletion, label = found.deletion, "score"
    if found.probability is not None and found.kind == "class":
        label = "log-odds"
    return _svg(250, lambda ax: draw_deletion(ax, deletion, label), "score while the sample is deleted")


def _svg(height: float, draw: Callable[[Axes], None], title: str) -> str:
    with axes(height) as ax:
        draw(ax)
        return drawn(ax, title)


def sheet(gallery: Gallery) -> bytes:
    """A picture with a line for each explanation: the sample with its attributions, and the deletion curve."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [(item, name) for item in gallery.items for name in item.explanation.heatmaps]
    with mpl.rc_context(
        {"text.parse_math": False, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(9, 2.7 * len(rows)), dpi=110, layout="constrained")
        panels = figure.subplots(len(rows), 3, squeeze=False, width_ratios=(1, 1, 1))
        for (item, name), (left, middle, right) in zip(rows, panels, strict=True):
            _line(item, gallery, name, left, middle)
            draw_deletion(right, item.explanation.deletion, "score while parts are deleted", LIGHT, 9)
            right.grid(color=LIGHT["grid"])
        written = io.BytesIO()
        figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _line(item: Item, gallery: Gallery, name: str, left: Axes, middle: Axes) -> None:
    heatmap, sample = item.explanation.heatmaps[name], item.sample[name]
    most = float(np.abs(heatmap.values).max(initial=0.0))
    doubt = "" if item.explanation.evidence else " (no evidence)"
    left.set_title(f"sample {item.row}", loc="left")
    middle.set_title(f"{title_of(item.explanation)}{doubt}"[:48], loc="left")
    if heatmap.kind in ("image", "volume"):
        shown, values = flat_sample(sample, heatmap, name, gallery.signature), flat(heatmap)
        left.imshow(shown, interpolation="nearest")
        middle.imshow(overlaid(shown, values, float(np.abs(values).max(initial=0.0))), interpolation="nearest")
        left.set_axis_off()
        middle.set_axis_off()
    elif heatmap.kind == "sequence":
        names = [f"feature {index}" for index in range(sample.shape[1])]
        draw_sequence(left, sample.astype(np.float64), names, None)
        draw_sequence(middle, heatmap.values, names, most)
    elif heatmap.kind == "signal":
        draw_signal(left, sample, np.zeros_like(heatmap.values), 1.0, LIGHT)
        draw_signal(middle, sample, heatmap.values, most, LIGHT)
    else:
        left.set_axis_off()
        tokens = heatmap.kind == "tokens"
        texts = token_texts(item, gallery.signature, name) if tokens else _labels(gallery, name, sample)
        told = (
            "".join(_trimmed(texts))
            if is_text(item, gallery.signature, name)
            else f"{counted(texts, 'value')} of {name}"
        )
        left.text(0, 1, told[:600], wrap=True, va="top")
        labels = [f"{text} ({index})" for index, text in enumerate(texts)] if tokens else texts
        draw_bars(middle, labels, heatmap.values.reshape(-1), LIGHT)


def facts_of(gallery: Gallery) -> list[dict[str, Any]]:
    """What was found, without heatmaps, as JSON-ready values."""
    found = []
    for item in gallery.items:
        value = item.explanation.to_dict()
        value["heatmaps"] = {
            name: {"kind": heatmap.kind, "baseline": heatmap.baseline, "shape": list(heatmap.values.shape)}
            for name, heatmap in item.explanation.heatmaps.items()
        }
        told = {"title": item.explanation.title, "strongest": strongest(item, gallery.signature)}
        found.append({"row": item.row, "truth": item.truth, **told, **json.loads(json.dumps(value))})
    return found
