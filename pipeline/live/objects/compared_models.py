"""The models and the samples of a comparison: models of any kind are converted to live objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....core.counts import with_article
from ....core.data.splits import Splits
from ....core.errors import DataError, UserError
from ..capturing import CaptureRequest, capture_module
from ..data.adapters import REMEDY, as_splits
from ..running import opened
from ..workspace import Workspace
from .model_files import ModelFile, Runnable
from .programs import Program


def candidates(models: Any, data: Any) -> dict[str, Program | ModelFile]:
    """The models of a comparison as live objects; a module is captured.

    Raises:
        UserError: the models are not a mapping, there are none, or a value is not a model.
    """
    if not isinstance(models, Mapping) or not models:
        raise UserError("`compare` takes models by name", "retort.compare({'before': one, 'after': other}, data=test)")
    found: dict[str, Program | ModelFile] = {}
    for name, model in models.items():
        if hasattr(model, "forward") and hasattr(model, "state_dict"):
            found[str(name)] = capture_module(model, data, CaptureRequest(), Workspace())
        elif isinstance(getattr(model, "backend", None), str) and hasattr(model, "run"):
            raise UserError(
                f"'{name}' is a session, whose file is not known", "give its file, its Graph or its Program"
            )
        else:
            found[str(name)] = opened(model)
    return found


def test_splits(models: Mapping[str, Program | ModelFile], data: Any) -> Splits:
    """The samples of a comparison: the given ones, or those that were last used with the last model.

    Raises:
        DataError: there are none.
        UserError: the first model is a file that cannot be run.
    """
    if data is None:
        known = [model.data for model in models.values() if model.data is not None]
        if not known:
            raise DataError("no data were given", REMEDY)
        return known[-1]
    first = next(iter(models.values()))
    if not isinstance(first, Program | Runnable):
        raise UserError(f"{first.path} is {with_article(first.kind)}, which cannot be run", "compare its ONNX file")
    return as_splits(data, first.signature, "test")
