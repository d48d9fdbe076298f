"""The kinds of artifacts: the main file of each, the suffix of a bare file, and the stage that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "program", "graph", "engine", "archive", "bundle", "deployment", "measurement", "report", "edge", "openvino"
]


@dataclass(frozen=True)
class KindEntry:
    """One kind of artifact.

    Attributes:
        main_file: the name of its main file.
        made_by: the first command that makes one.
        suffix: the suffix by which a bare file of this kind is recognised; empty if bare files are not read.
        or_file: the name of the main file where the first one is not there; empty if there is no other.
    """

    main_file: str
    made_by: str
    suffix: str = ""
    or_file: str = ""


KINDS: dict[Kind, KindEntry] = {
    "program": KindEntry("model.pt2", "capture", ".pt2"),
    "graph": KindEntry("model.onnx", "export", ".onnx"),
    "engine": KindEntry("model.plan", "engine", ".plan"),
    "archive": KindEntry("model.mar", "pack", ".mar"),
    "bundle": KindEntry("model.onnx", "bundle", or_file="engine/model.plan"),
    "deployment": KindEntry("deployment.json", "pack"),
    "measurement": KindEntry("measurement.json", "bench"),
    "report": KindEntry("report.html", "report", ".html"),
    "edge": KindEntry("edge.json", "edge bundle"),
    "openvino": KindEntry("model.xml", "export", ".xml"),
}


def kind_of_suffix(suffix: str) -> Kind | None:
    """The kind of a bare file with this suffix; None if such files are not read."""
    return next((kind for kind, entry in KINDS.items() if suffix and entry.suffix == suffix), None)
