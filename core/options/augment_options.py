"""Options of augmentation: the transforms of training samples, each with its strength and its probability."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from .image_transforms import (
    BlurOptions,
    ColorOptions,
    CropOptions,
    EraseOptions,
    FlipOptions,
    Kind,
    RandAugmentOptions,
    ResizedCropOptions,
    RotateOptions,
    ScaleOptions,
    ShearOptions,
    ShiftOptions,
    Transform,
)
from .option_types import Count, Fraction, Options, Positive, Probability
from .quantities import UNIT_TEXT
from .yaml_text import parse_yaml


class NoiseOptions(Transform):
    """Add Gaussian noise to images, series (jitter), recordings or numbers."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "series", "recording", "numbers")
    main: ClassVar[str] = "std"
    std: Fraction | None = Field(
        default=None,
        description="Standard deviation of the noise, as a share of the range of the input's values. The default is "
        "0.05 without `snr_db`.",
    )
    snr_db: tuple[float, float] | None = Field(
        default=None,
        description="Range of the signal-to-noise ratio of each sample instead of `std`, in dB, such as [10, 30].",
    )

    @model_validator(mode="after")
    def _one_strength(self) -> NoiseOptions:
        if self.std is not None and self.snr_db is not None:
            raise ValueError("give either `std` or `snr_db`")
        if self.snr_db is not None and self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"`snr_db` must begin with the smaller value, not {self.snr_db[0]:g}")
        return self


class MixupOptions(Transform):
    """Mix each sample and its target with another sample of the training split (mixup, Zhang et al., 2018)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "series", "recording", "numbers")
    main: ClassVar[str] = "alpha"
    alpha: Positive = Field(
        default=0.2, description="Parameter of the Beta distribution of the shares: larger values mix more evenly."
    )


class CutmixOptions(Transform):
    """Paste a rectangle of another sample of the training split into each image (CutMix, Yun et al., 2019).

    The targets are mixed by area. After `mixup`, only samples that it left unchanged are cut.
    """

    main: ClassVar[str] = "alpha"
    alpha: Positive = Field(default=1.0, description="Parameter of the Beta distribution of the areas.")


class TimeMaskOptions(Transform):
    """Overwrite spans of time with the sample's mean (SpecAugment, Park et al., 2019), in recordings with silence."""

    kinds: ClassVar[tuple[Kind, ...]] = ("series", "recording")
    main: ClassVar[str] = "share"
    share: Fraction = Field(default=0.1, description="Largest length of a span, as a share of all of the time.")
    count: Count = Field(default=2, description="Number of spans.")
    time: Literal["first", "last"] = Field(
        default="first", description="Axis of time of a series: first in [time, features], last in [features, time]."
    )


class FeatureMaskOptions(Transform):
    """Overwrite neighbouring features of a series, such as frequencies, with the sample's mean (SpecAugment)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("series",)
    main: ClassVar[str] = "share"
    share: Fraction = Field(default=0.15, description="Largest number of neighbours, as a share of all features.")
    count: Count = Field(default=2, description="Number of groups of neighbours.")
    time: Literal["first", "last"] = Field(
        default="first", description="Axis of time of a series: first in [time, features], last in [features, time]."
    )


class GainOptions(Transform):
    """Make recordings louder or quieter."""

    kinds: ClassVar[tuple[Kind, ...]] = ("recording",)
    main: ClassVar[str] = "db"
    db: Annotated[float, Field(gt=0, le=60)] = Field(default=6.0, description="Largest gain in both directions, in dB.")


class MaskOptions(Transform):
    """Replace tokens by the mask token; special tokens and padding stay."""

    kinds: ClassVar[tuple[Kind, ...]] = ("tokens",)
    main: ClassVar[str] = "share"
    share: Probability = Field(default=0.15, description="Share of the tokens that are replaced.")
    token: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Number of the mask token. The default is the one of the tokenizer."
    )


class DropOptions(Transform):
    """Delete tokens; the others move together and the row is padded. Special tokens and padding stay."""

    kinds: ClassVar[tuple[Kind, ...]] = ("tokens",)
    main: ClassVar[str] = "share"
    share: Probability = Field(default=0.1, description="Share of the tokens that are deleted.")


TRANSFORMS: dict[str, type[Transform]] = {
    "flip": FlipOptions,
    "shift": ShiftOptions,
    "rotate": RotateOptions,
    "scale": ScaleOptions,
    "shear": ShearOptions,
    "crop": CropOptions,
    "resized_crop": ResizedCropOptions,
    "color": ColorOptions,
    "blur": BlurOptions,
    "noise": NoiseOptions,
    "erase": EraseOptions,
    "randaugment": RandAugmentOptions,
    "mixup": MixupOptions,
    "cutmix": CutmixOptions,
    "time_mask": TimeMaskOptions,
    "feature_mask": FeatureMaskOptions,
    "gain": GainOptions,
    "mask": MaskOptions,
    "drop": DropOptions,
}
"""The transforms by name, in the order of the guide."""


class Step(Options):
    """One entry of `augment`: a transform and its options."""

    name: ClassVar[str]

    @property
    def options(self) -> Transform:
        """The options of the transform."""
        options: Transform = getattr(self, self.name)
        return options

    def __reduce__(self) -> tuple[Any, ...]:
        """The classes of steps are made by a function, so that pickle does not find them by their names."""
        return step_of, (self.name, self.options)


def step_of(name: str, options: Transform) -> Step:
    """The step of a transform."""
    return STEPS[name].model_validate({name: options})


def _step_model(name: str, options: type[Transform]) -> type[Step]:
    namespace = {"__annotations__": {name: options, "name": ClassVar[str]}, "__module__": __name__, "name": name}
    title = "".join(part.capitalize() for part in name.split("_"))
    return type(f"{title}Step", (Step,), {**namespace, "__doc__": f"The transform `{name}`."})


def _step_name(value: Any) -> str:
    if isinstance(value, Step):
        return value.name
    return str(next(iter(value))) if isinstance(value, dict) and len(value) == 1 else "?"


def as_transform(value: Any) -> Any:
    """``flip``, ``rotate=10`` of a command line and ``{rotate: 10}`` as ``{name: {key: value}}``."""
    if isinstance(value, str):
        name, equals, text = value.partition("=")
        value = {name.strip(): parse_yaml(text) if equals else {}}
    if isinstance(value, dict) and len(value) == 1:
        ((name, options),) = value.items()
        known = TRANSFORMS.get(str(name))
        if options is None:
            options = {}
        elif not isinstance(options, dict) and known is not None and known.main:
            options = {known.main: options}
        return {name: options}
    return value


STEPS = {name: _step_model(name, options) for name, options in TRANSFORMS.items()}
_TAGGED: list[Any] = [Annotated.__class_getitem__((model, Tag(name))) for name, model in STEPS.items()]  # type: ignore[attr-defined]
AnyStep: Any = Annotated[
    reduce(operator.or_, _TAGGED), Discriminator(_step_name), BeforeValidator(as_transform), UNIT_TEXT
]
