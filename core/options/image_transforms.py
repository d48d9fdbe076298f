"""Options of the transforms of images, and what the options of all transforms share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .option_types import Count, Fraction, Options

Kind = Literal["image", "series", "recording", "tokens", "numbers"]
Fill = Literal["black", "mean", "edge"]
Chance = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(gt=0, le=180)]


class Transform(Options):
    """What all transforms share."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    main: ClassVar[str] = ""
    """The key that a single value sets, as in ``rotate: 10``."""

    input: str | None = Field(
        default=None, description="Name of the input. The default is every input for which the transform is made."
    )
    probability: Chance = Field(default=1.0, description="Share of the samples that are changed.")


class Filled(Transform):
    """A transform that moves an image, which leaves places without pixels."""

    fill: Fill = Field(
        default="black",
        description="Value of places without pixels: black, the mean grey, or the nearest pixel of the edge.",
    )


class FlipOptions(Transform):
    """Mirror images. Wrong where left and right, or up and down, carry meaning, as in digits and text."""

    main: ClassVar[str] = "horizontal"
    horizontal: Chance = Field(default=0.5, description="Share of the images that are mirrored left to right.")
    vertical: Chance = Field(default=0.0, description="Share of the images that are mirrored top to bottom.")


class ShiftOptions(Filled):
    """Move images, recordings or rows of symbols by whole pixels, samples or places in any direction."""

    kinds: ClassVar[tuple[Kind, ...]] = ("image", "recording", "tokens")
    main: ClassVar[str] = "share"
    share: Fraction = Field(default=0.1, description="Largest shift, as a share of the length of the axis.")
    along: Literal["both", "height", "width"] = Field(
        default="both",
        description="Direction in images. `height` moves a series whose first axis is time along its time.",
    )


class RotateOptions(Filled):
    """Rotate images around their middle, with bilinear interpolation."""

    main: ClassVar[str] = "degrees"
    degrees: Degrees = Field(default=15.0, description="Largest angle in both directions, in degrees.")


class ScaleOptions(Filled):
    """Enlarge or shrink images around their middle."""

    main: ClassVar[str] = "share"
    share: Annotated[float, Field(gt=0, le=4)] = Field(
        default=0.1, description="Largest change of size: 0.1 gives factors from 1/1.1 to 1.1."
    )


class ShearOptions(Filled):
    """Shear images horizontally."""

    main: ClassVar[str] = "degrees"
    degrees: Annotated[float, Field(gt=0, le=80)] = Field(
        default=10.0, description="Largest angle in both directions, in degrees."
    )


class CropOptions(Filled):
    """Pad images on every side and cut out a random part of the former size (He et al., 2016)."""

    main: ClassVar[str] = "padding"
    padding: Count = Field(default=4, description="Number of pixels that are added on every side.")


class ResizedCropOptions(Transform):
    """Cut out a random rectangle and enlarge it to the former size (Szegedy et al., 2015)."""

    main: ClassVar[str] = "area"
    area: Fraction = Field(default=0.25, description="Smallest share of the area that is kept.")
    ratio: Annotated[float, Field(ge=1)] = Field(
        default=4 / 3, description="Largest ratio of width to height and of height to width."
    )


class ColorOptions(Transform):
    """Change brightness, contrast, saturation and hue. Grey images keep their saturation and hue."""

    brightness: Fraction | Literal[0] = Field(default=0.2, description="Largest relative change of all pixels.")
    contrast: Fraction | Literal[0] = Field(
        default=0.2, description="Largest relative change of the distance to the image's mean grey."
    )
    saturation: Fraction | Literal[0] = Field(
        default=0.2, description="Largest relative change of the distance to the grey of each pixel."
    )
    hue: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="Largest rotation of the hue, as a share of the full circle."
    )


class BlurOptions(Transform):
    """Blur images with a Gaussian filter."""

    main: ClassVar[str] = "sigma"
    sigma: Annotated[float, Field(gt=0, le=20)] = Field(
        default=1.0, description="Largest standard deviation of the filter, in pixels."
    )


class EraseOptions(Transform):
    """Overwrite a random rectangle of images (cutout, DeVries 2017; random erasing, Zhong 2020)."""

    main: ClassVar[str] = "area"
    probability: Chance = Field(default=0.5, description="Share of the samples that are changed.")
    area: Fraction = Field(default=0.2, description="Largest share of the image's area.")
    fill: Literal["black", "mean", "noise"] = Field(
        default="mean", description="What the rectangle becomes: black, the mean grey, or noise."
    )


class RandAugmentOptions(Filled):
    """Apply random operations of the usual fourteen to each image (RandAugment, Cubuk et al., 2020)."""

    main: ClassVar[str] = "magnitude"
    n: Annotated[int, Field(ge=1, le=14)] = Field(default=2, description="Number of operations per image.")
    magnitude: Annotated[float, Field(ge=0, le=30)] = Field(
        default=9.0, description="Strength of every operation, from 0 (none) to 30 (strongest)."
    )
