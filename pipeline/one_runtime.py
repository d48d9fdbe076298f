"""Programs that are compared with ONNX files are exported first, so that all of them run in one runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.artifact import Artifact
from ..core.context import Context, Place
from ..core.errors import RetortError
from ..core.options.stage_options import ExportOptions
from . import stages


def in_one_runtime(
    models: Mapping[str, Artifact], folder: Path, context: Context
) -> tuple[dict[str, Artifact], list[str]]:
    """The models, where each program that stands beside an ONNX file is replaced by its own exported file.

    Args:
        models: artifacts by name.
        folder: where the exported files are written.

    Returns:
        The artifacts by name, and a note for each program.
    """
    found, notes = dict(models), list[str]()
    if not any(model.kind == "graph" for model in models.values()):
        return found, notes
    for index, (name, model) in enumerate(models.items()):
        if model.kind != "program":
            continue
        try:
            found[name] = stages.export(ExportOptions(), model, Place(folder / str(index)), context)
        except RetortError as error:  # the program itself can be measured
            notes.append(f"'{name}' could not be exported and is measured in PyTorch: {error.message}")
            continue
        notes.append(f"'{name}' is a program, so its exported ONNX file was measured (--as-is measures the program)")
    return found, notes
