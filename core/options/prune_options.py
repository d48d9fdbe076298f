"""Options of pruning: one budget, how channels are ranked, what is left out, and by which schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .option_types import Count, Importance, Normalization, Options, Positive
from .quantities import Bytes, Milliseconds, Share, Step
from .train_options import RecoverOptions

BUDGETS = ("macs", "parameters", "size", "size_bytes", "latency", "latency_ms")
SCHEDULE_STEPS = {"one_shot": 1, "iterative": 3, "gradual": 5}


class PruneOptions(Options):
    """Structured pruning by coupled channels: one budget, or `layers` alone."""

    macs: Share | None = Field(default=None, description="multiply-accumulates to keep: 0.5, 0.5x or 50%")
    parameters: Share | None = Field(default=None, description="parameters to keep, as a share of the input's")
    size: Share | None = Field(default=None, description="bytes of the parameters to keep, as a share of the input's")
    size_bytes: Bytes | None = Field(default=None, description="bytes of the parameters to keep, such as 2 MB")
    latency: Share | None = Field(
        default=None, description="time to keep, as a share of the input's, measured: 0.5x is twice as fast"
    )
    latency_ms: Milliseconds | None = Field(default=None, description="milliseconds per call to reach, measured")
    batch: Count = Field(default=1, description="rows per call for which the latency is asked")
    threads: Count = Field(default=1, description="runtime threads for which the latency is asked")
    timer: str | None = Field(
        default=None,
        description="`package.module:function` that times another device: (path of an .onnx, batch) to milliseconds",
    )
    layers: dict[str, Share] = Field(
        default_factory=dict,
        description="channels to keep of the layers that match a pattern; --set 'layers={conv3*: 0.5}'",
    )
    importance: Importance = Field(
        default="auto",
        description="how channels are ranked; auto: taylor or group_norm, whichever keeps the outputs closer in a"
        " trial; group_norm where there are no data",
    )
    normalize: Normalization = Field(
        default="auto",
        description="what scores are divided by, so that layers can be compared: their layer's mean, max or sum, what a"
        " channel costs or the root of it; auto: the one that keeps the outputs closest in a trial",
    )
    score_samples: Count = Field(default=256, description="calibration samples that taylor, obd and activation look at")
    score_batch: Count = Field(default=16, description="samples per gradient of taylor and obd")
    scope: Literal["global", "layer"] = Field(
        default="global", description="rank channels across the whole model, or cut each layer alike"
    )
    min_channels: Count = Field(default=4, description="channels that every layer keeps")
    align: Step = Field(
        default="auto",
        description="keep channel counts at multiples of this; auto: 8, or less where the budget would be missed",
    )
    exclude: tuple[str, ...] = Field(default=(), description="layer or parameter patterns whose channels stay")
    only: tuple[str, ...] = Field(default=(), description="layer or parameter patterns outside which all channels stay")
    schedule: Literal["one_shot", "iterative", "gradual"] | None = Field(
        default=None,
        description="one cut; cuts with a full recovery after each; or cuts spread over one recovery; by `steps`",
    )
    steps: Count | None = Field(default=None, description="cuts: 1 in one shot, else 3 (iterative) or 5 (gradual)")
    ramp: Literal["geometric", "cubic", "linear"] | None = Field(
        default=None, description="how the budget falls over the steps: geometric if iterative, cubic if gradual"
    )
    tolerance: Positive = Field(default=1e-4, description="largest relative error that the proof accepts")
    recover: RecoverOptions | None = Field(
        default_factory=RecoverOptions, description="training after each cut; null cuts without training"
    )
    seed: int = Field(default=0, description="seed of random importance and of sampling")

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are given, by name."""
        given = {name: getattr(self, name) for name in BUDGETS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def timed(self) -> bool:
        """Whether the budget is a latency."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def cuts(self) -> int:
        """The number of steps."""
        return self.steps or (1 if self.schedule is None else SCHEDULE_STEPS[self.schedule])

    @model_validator(mode="after")
    def _one_budget(self) -> PruneOptions:
        if len(self.budgets) > 1 or not (self.budgets or self.layers):
            raise ValueError(f"give exactly one of {', '.join(BUDGETS)}, or `layers` alone")
        if self.schedule == "one_shot" and self.cuts > 1:
            raise ValueError(f"`schedule: one_shot` is one cut, not {self.cuts} steps; use iterative or gradual")
        if self.timer is not None and not self.timed:
            raise ValueError("`timer` measures a latency; give `latency` or `latency_ms`")
        return self


class SparsifyOptions(Options):
    """Zeros in the weights: unstructured, or N of every M values kept along the input channels (2:4)."""

    pattern: str = Field(
        default="2:4",
        pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?)$",
        description="`2:4` keeps 2 of every 4 weights along the input channels, as sparse tensor cores need; any N:M;"
        " or `unstructured`",
    )
    sparsity: Share = Field(default=0.5, description="share of the weights to zero where the pattern is unstructured")
    method: Literal["magnitude", "reconstruct"] = Field(
        default="reconstruct",
        description="zero the smallest weights; or the least harmful ones, and let the others make up (SparseGPT)",
    )
    scope: Literal["global", "layer"] = Field(
        default="layer", description="rank weights of the whole model, or zero the same share of each layer"
    )
    exclude: tuple[str, ...] = Field(default=(), description="layer or parameter patterns left dense")
    only: tuple[str, ...] = Field(default=(), description="layer or parameter patterns outside which all stay dense")
    samples: Count = Field(default=256, description="calibration samples that `reconstruct` looks at")
    batch: Count = Field(default=32, description="calibration samples per batch")
    damping: Positive = Field(default=0.01, description="share of the mean added to the diagonal of the Hessian")
    recover: RecoverOptions | None = Field(
        default_factory=RecoverOptions, description="training after the zeroing; null zeroes without training"
    )

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M; None where the pattern is unstructured."""
        kept, _, size = self.pattern.partition(":")
        return (int(kept), int(size)) if size else None

    @model_validator(mode="after")
    def _fits(self) -> SparsifyOptions:
        if self.group is not None and self.group[0] >= self.group[1]:
            raise ValueError(f"`pattern: {self.pattern}` keeps everything; 2:4 keeps 2 of 4")
        if self.scope == "global" and (self.group is not None or self.method != "magnitude"):
            raise ValueError("`scope: global` ranks by magnitude, unstructured")
        return self
