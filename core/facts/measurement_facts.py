"""Facts of measurements: the served endpoint, speedups by name, and the placements that were timed."""

from __future__ import annotations

from collections.abc import Mapping

from ..metrics.ratio import Ratio
from ..options.quantize_options import FirstLayer, QuantizeOptions
from .record import Record


class ServeTiming(Record):
    """Durations of a served endpoint.

    Attributes:
        startup_s: time until it answered, in seconds.
    """

    startup_s: float


class ServeFacts(Record):
    """Facts of the serve stage.

    Attributes:
        samples: number of samples that were sent.
        rows_per_request: samples per request.
        bit_identical: whether the answers are equal to the local session's, bit for bit.
        timing: durations.
    """

    samples: int
    rows_per_request: int
    bit_identical: bool
    timing: ServeTiming


class RatioFacts(Record):
    """Speedups by name, such as the batch size."""

    __pydantic_extra__: dict[str, Ratio]

    @property
    def ratios(self) -> Mapping[str, Ratio]:
        """The speedups."""
        return self.__pydantic_extra__


class TriedPlacement(Record):
    """A placement that was timed.

    Attributes:
        float: names of the layers and operators in floating point.
        speed: speedup over FP32, by batch size.
        first_layer: the option of that name: ``int8`` if the layers that read the inputs are integer, too.
    """

    float: tuple[str, ...]
    speed: dict[str, Ratio]
    first_layer: FirstLayer = "auto"


class PlacementFacts(Record):
    """The search for a placement that is not slower than FP32 at any batch size.

    Attributes:
        float: layers and operators to leave in floating point, each with the measured reason; empty if nothing is
            gained.
        tried: the placements that were timed.
        doubts: why no decision can be based on the times, such as a noisy machine.
        first_layer: the option of that name that was chosen.
    """

    float: dict[str, str]
    tried: tuple[TriedPlacement, ...]
    doubts: tuple[str, ...]
    first_layer: FirstLayer = "auto"

    def applied_to(self, options: QuantizeOptions) -> QuantizeOptions:
        """The options of a quantization with this placement."""
        first = self.first_layer if options.first_layer == "auto" else options.first_layer
        slow = {**options.float_layers, **self.float}
        return options.model_copy(update={"float_layers": slow, "first_layer": first})

    @property
    def changes_something(self) -> bool:
        """Whether another placement than the usual one was chosen."""
        return bool(self.float) or self.first_layer != "auto"
