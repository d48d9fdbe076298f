"""Faults of augmentation and sampling that a few samples show: a transform for another input, weights of no class."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.data.augmentation.views import views_of
from ...core.data.model_inputs import fit_to
from ...core.data.sampling import sampler_of
from ...core.data.splits import Splits
from ...core.errors import RetortError
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import Options, TrainOptions
from ...core.signature import Signature
from .subject import Subject, fault_of


def augment_faults(subject: Subject, model: Signature, data: Splits) -> Iterator[Fault]:
    """Try the augmentation and the sampling of every training that has to run."""
    fitted, signature = None, data.describing(model)
    for stage in (item.name for item in subject.recipe.stages):
        for path, options in trainings(subject.options(stage)):
            if not options.augment and options.sampling == "natural":
                continue
            fitted = fitted or fit_to(data, model)
            where = f"{subject.key(stage, path)}." if path else f"{subject.key(stage)}."
            try:
                described = signature.preprocessing, data.tokenizer, signature.inputs, subject.recipe.task
                views_of(fitted.train, options.augment, *described)
            except RetortError as error:
                yield fault_of(f"{where}augment", error)
            try:
                sampler_of(fitted.train, options.sampling, subject.recipe.seed)
            except RetortError as error:
                yield fault_of(f"{where}sampling", error)


def trainings(options: Options | None) -> Iterator[tuple[str, TrainOptions]]:
    """The training that options describe, or those below their keys, such as ``recover`` of ``prune``."""
    if isinstance(options, TrainOptions):
        yield "", options
    elif options is not None:
        for key in type(options).model_fields:
            value = getattr(options, key)
            if isinstance(value, TrainOptions):
                yield key, value
