"""What is to be compared, and on which samples: models of any make as live objects that run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....core.data.splits import Splits
from ....core.errors import DataError, UserError
from ..capturing import CaptureRequest, capture_module
from ..data.adapters import REMEDY, as_splits
from ..running import opened
from ..workspace import Workspace
from .model_files import ModelFile, Runnable
from .programs import Program


def candidates(models: Any, data: Any) -> dict[str, Program | ModelFile]:
    """What is to be compared as live objects; a module is captured.

    Raises:
        UserError: no mapping, no models, or something that is no model.
    """
    if not isinstance(models, Mapping) or not models:
        raise UserError("`compare` takes models by name", "retort.compare({'before': one, 'after': other}, data=test)")
    found: dict[str, Program | ModelFile] = {}
    for name, model in models.items():
        if hasattr(model, "forward") and hasattr(model, "state_dict"):
            found[str(name)] = capture_module(model, data, CaptureRequest(), Workspace())
        elif isinstance(getattr(model, "backend", None), str) and hasattr(model, "run"):
            raise UserError(
                f"'{name}' is a session, which does not tell its file", "give its file, its Graph or its Program"
            )
        else:
            found[str(name)] = opened(model)
    return found


def test_splits(models: Mapping[str, Program | ModelFile], data: Any) -> Splits:
    """The samples that models are compared on: those that are given, or what the last of them remembers.

    Raises:
        DataError: there are none.
        UserError: the first model is a file that does not run.
    """
    if data is None:
        known = [model.data for model in models.values() if model.data is not None]
        if not known:
            raise DataError("no data are given", REMEDY)
        return known[-1]
    first = next(iter(models.values()))
    if not isinstance(first, Program | Runnable):
        raise UserError(f"{first.path} is a {first.kind}, which does not run by itself", "compare its ONNX file")
    return as_splits(data, first.signature, "test")
