"""The losses of distillation as options: each has a name, a weight and options of its own.

In a recipe a loss is a name (``dkd``), a name with its weight (``kd: 0.7``), or a name with its options
(``features: {weight: 2, pairs: auto}``); on the command line it is ``dkd`` or ``kd:0.7``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag

from .metric_names import Task
from .named_inputs import NAMES_FUNCTION
from .option_types import Count, Options, Positive

USER = "function"
"""Tag of a loss that the user wrote."""
Pairs = Literal["auto"] | tuple[tuple[str, str], ...]
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NUMBER = re.compile(r"[0-9.]+(?:[eE][+-]?[0-9]+)?")


class LossOptions(Options):
    """One loss of distillation.

    Attributes:
        shares: whether its weight is taken from the loss against the targets, as ``alpha`` is.
        needs_targets: whether it cannot be computed without labels.
        needs_equal_outputs: whether teacher and student must predict the same classes or values.
        needs_batch: whether it compares the samples of a batch, so that one sample is not enough.
        tasks: the tasks that it is for; None for all.
    """

    shares: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False
    needs_equal_outputs: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = False
    tasks: ClassVar[tuple[Task, ...] | None] = None

    loss: str
    weight: Positive = Field(default=1.0, description="Weight of the loss in the sum.")


class SoftenedOptions(LossOptions):
    """A loss between distributions that a temperature softens."""

    temperature: Positive | None = Field(
        default=None, description="Temperature of this loss. The default is the `temperature` of the stage."
    )


class KdOptions(SoftenedOptions):
    """Soft targets: T² · KL of the softened distributions (Hinton et al., 2015); for values, their squared error."""

    shares = needs_equal_outputs = True

    loss: Literal["kd"] = "kd"
    weight: Positive = Field(default=0.7, description="Weight of the loss. The loss against the targets gets the rest.")
    standardize: bool = Field(
        default=False,
        description="Standardise the logits of each sample, so that the student need not learn their size (Sun et "
        "al., 2024).",
    )


class DkdOptions(SoftenedOptions):
    """Decoupled distillation: the target's probability and those of the other classes apart (Zhao et al., 2022)."""

    needs_equal_outputs = needs_targets = True
    tasks = ("classification",)

    loss: Literal["dkd"] = "dkd"
    alpha: float = Field(default=1.0, ge=0, description="Weight of the part about the target class.")
    beta: float = Field(default=8.0, ge=0, description="Weight of the part about the other classes.")
    standardize: bool = Field(default=False, description="Standardise the logits of each sample (Sun et al., 2024).")


class DistOptions(SoftenedOptions):
    """Correlation of the predictions, per sample and per class (DIST; Huang et al., 2022)."""

    needs_equal_outputs = needs_batch = True
    tasks = ("classification", "sequence")

    loss: Literal["dist"] = "dist"
    inter: float = Field(default=1.0, ge=0, description="Weight of the correlation over the classes of a sample.")
    intra: float = Field(default=1.0, ge=0, description="Weight of the correlation over the samples of a class.")


class MseOptions(LossOptions):
    """Mean squared error to the teacher's outputs: logits, or values of a regression (Ba and Caruana, 2014)."""

    shares = needs_equal_outputs = True

    loss: Literal["mse"] = "mse"
    weight: Positive = Field(default=0.7, description="Weight of the loss. The loss against the targets gets the rest.")


class PairedOptions(LossOptions):
    """A loss between values inside the student and the teacher."""

    pairs: Pairs = Field(
        default="auto",
        description="Pairs [student layer, teacher layer], each a module path or the name of a node as `retort show "
        "MODEL --nodes` lists them. auto pairs the ends of blocks by kind, resolution and depth.",
    )


class FeatureOptions(PairedOptions):
    """Squared error of inner values, projected where widths differ (FitNets; Romero et al., 2015)."""

    loss: Literal["features"] = "features"
    normalize: bool = Field(
        default=True,
        description="Divide by the mean square of the teacher's values, so that the weight does not depend on their "
        "scale.",
    )


class AttentionOptions(PairedOptions):
    """Where inner values are large: maps of their squares (attention transfer; Zagoruyko and Komodakis, 2017)."""

    loss: Literal["attention"] = "attention"


class SimilarityOptions(PairedOptions):
    """Which samples of a batch are alike (similarity-preserving; Tung and Mori, 2019)."""

    needs_batch = True

    loss: Literal["similarity"] = "similarity"
    weight: Positive = Field(default=10.0, description="Weight of the loss in the sum.")


class RkdOptions(PairedOptions):
    """Distances and angles between the samples of a batch (relational distillation; Park et al., 2019)."""

    needs_batch = True

    loss: Literal["rkd"] = "rkd"
    distance: float = Field(default=1.0, ge=0, description="Weight of the distances between two samples.")
    angle: float = Field(default=2.0, ge=0, description="Weight of the angles between three samples.")


class MinilmOptions(LossOptions):
    """Relations of queries, keys and values in one attention layer (MiniLMv2; Wang et al., 2021)."""

    loss: Literal["minilm"] = "minilm"
    relation_heads: Count | None = Field(
        default=None,
        description="Number of heads into which both models are cut for the relations, which must divide both widths. "
        "The default is the largest one up to 48 that leaves 8 values per head.",
    )
    teacher_layer: Count | None = Field(
        default=None,
        description="Attention layer of the teacher, from 1. The default is the last one, and the upper middle of "
        "more than 12, as in the paper.",
    )
    student_layer: Count | None = Field(
        default=None, description="Attention layer of the student, from 1. The default is the last one."
    )


class CosineOptions(LossOptions):
    """One minus the cosine of the embeddings of student and teacher, for models that compute embeddings."""

    shares = True

    loss: Literal["cosine"] = "cosine"


class ContrastiveOptions(LossOptions):
    """Finding the teacher's embedding of a sample among those of the batch (InfoNCE; van den Oord et al., 2018)."""

    shares = needs_batch = True

    loss: Literal["contrastive"] = "contrastive"
    temperature: Positive = Field(default=0.05, description="Temperature of the similarities.")


class SelfOptions(SoftenedOptions):
    """Soft targets of the moving average of the student's own weights (mean teacher; Tarvainen and Valpola, 2017)."""

    shares = True

    loss: Literal["self"] = "self"
    weight: Positive = Field(default=0.3, description="Weight of the loss. The loss against the targets gets the rest.")
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.99, description="Decay of the moving average per batch; it is smaller in the first steps."
    )


class FunctionOptions(LossOptions):
    """A function `module:function(student, teacher, inputs, targets)` that returns a scalar."""

    loss: Annotated[str, NAMES_FUNCTION] = Field(description="The function, as `package.module:function`.")
    pairs: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="Pairs [student layer, teacher layer] whose values the function gets besides the outputs, under "
        "these names.",
    )


LOSSES: dict[str, type[LossOptions]] = {
    "kd": KdOptions,
    "dkd": DkdOptions,
    "dist": DistOptions,
    "mse": MseOptions,
    "features": FeatureOptions,
    "attention": AttentionOptions,
    "similarity": SimilarityOptions,
    "rkd": RkdOptions,
    "minilm": MinilmOptions,
    "cosine": CosineOptions,
    "contrastive": ContrastiveOptions,
    "self": SelfOptions,
    USER: FunctionOptions,
}
"""The options of every loss by its name in a recipe."""


def _from_written(value: Any) -> Any:
    """A loss as it is written in a recipe or on the command line, as a mapping with its name."""
    if isinstance(value, str):
        name, _, last = value.rpartition(":")
        value = {name: float(last)} if name and _NUMBER.fullmatch(last) else {value: None}
    if not isinstance(value, Mapping) or "loss" in value:
        return value
    if len(value) != 1:
        raise ValueError(f"must be one loss, such as `dkd`, `kd: 0.7` or `features: {{weight: 2}}`, not {value!r}")
    name, options = next(iter(value.items()))
    if name == USER or (name not in LOSSES and not _FUNCTION.fullmatch(str(name))):
        near = difflib.get_close_matches(str(name), LOSSES, n=1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"'{name}' is not one of {', '.join(list(LOSSES)[:-1])} and module:function{meant}")
    if isinstance(options, int | float) and not isinstance(options, bool):
        options = {"weight": options}
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"'{name}' takes a weight, or keys with values, not {options!r}")
    return {"loss": name, **(options or {})}


def _tag(value: Any) -> str:
    name = value.get("loss") if isinstance(value, Mapping) else getattr(value, "loss", None)
    return name if isinstance(name, str) and name in LOSSES and name != USER else USER


class _WrittenForm:
    """The JSON Schema of the forms in which a recipe writes a loss."""

    @staticmethod
    def __get_pydantic_json_schema__(core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(core)
        forms = {name: {"anyOf": [{"type": "number"}, {"type": "null"}, form]} for name, form in _forms(made)}
        user = {"^[^:]+:[^:]+$": forms.pop(USER)}
        written = {"properties": forms, "patternProperties": user, "additionalProperties": False}
        one = {"type": "object", "minProperties": 1, "maxProperties": 1, **written}
        return {"anyOf": [{"type": "string"}, one]}


def _forms(made: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(zip(LOSSES, made["oneOf"], strict=True))


AnyLoss = Annotated[
    Annotated[KdOptions, Tag("kd")]
    | Annotated[DkdOptions, Tag("dkd")]
    | Annotated[DistOptions, Tag("dist")]
    | Annotated[MseOptions, Tag("mse")]
    | Annotated[FeatureOptions, Tag("features")]
    | Annotated[AttentionOptions, Tag("attention")]
    | Annotated[SimilarityOptions, Tag("similarity")]
    | Annotated[RkdOptions, Tag("rkd")]
    | Annotated[MinilmOptions, Tag("minilm")]
    | Annotated[CosineOptions, Tag("cosine")]
    | Annotated[ContrastiveOptions, Tag("contrastive")]
    | Annotated[SelfOptions, Tag("self")]
    | Annotated[FunctionOptions, Tag(USER)],
    Discriminator(_tag),
    BeforeValidator(_from_written),
    _WrittenForm,
]
