"""Options of pruning and sparsity: the budget, the ranking of channels, exclusions and the schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .distill_options import RecoverOptions
from .named_inputs import NAMES_FUNCTION
from .option_types import Count, Importance, Normalization, Options, Positive, Seed
from .quantities import Bytes, Milliseconds, Share, Step

BUDGETS = ("macs", "parameters", "size", "size_bytes", "latency", "latency_ms")
SCHEDULE_STEPS = {"one_shot": 1, "iterative": 3, "gradual": 5}


class PruneOptions(Options):
    """Structured pruning of coupled channels. It needs exactly one budget, or `layers` alone."""

    macs: Share | None = Field(
        default=None, description="Share of the multiply-accumulate operations to keep, such as 0.5, 0.5x or 50%."
    )
    parameters: Share | None = Field(default=None, description="Share of the parameters to keep.")
    size: Share | None = Field(default=None, description="Share of the bytes of the parameters to keep.")
    size_bytes: Bytes | None = Field(default=None, description="Bytes of the parameters to keep, such as 2 MB.")
    latency: Share | None = Field(
        default=None, description="Share of the measured latency to keep. 0.5x means twice as fast."
    )
    latency_ms: Milliseconds | None = Field(
        default=None, description="Latency to reach, measured in milliseconds per call."
    )
    batch: Count = Field(default=1, description="Batch size at which the latency is measured.")
    threads: Count = Field(default=1, description="Number of runtime threads with which the latency is measured.")
    timer: Annotated[str | None, NAMES_FUNCTION] = Field(
        default=None,
        description="What measures the latency elsewhere: `edge:HOST` for a device that ssh reaches, as for "
        "`retort edge run`, or a function of yours as `package.module:function`, which gets the path of an .onnx file "
        "and a batch size, and returns milliseconds.",
    )
    layers: dict[str, Share] = Field(
        default_factory=dict,
        description="Share of the channels to keep in the layers that match a pattern, such as {'conv3*': 0.5}.",
    )
    importance: Importance = Field(
        default="auto",
        description="How channels are ranked. auto tries taylor, group_norm and, if reconstruction follows the cut "
        "instead of training, reconstruction; it takes the one that changes the outputs least. Without data it takes "
        "group_norm.",
    )
    normalize: Normalization = Field(
        default="auto",
        description="Value that scores are divided by, so that they are comparable between layers: the mean, max, "
        "sum or standard deviation of their layer, the cost of a channel, or the square root of that cost. auto "
        "takes the one that changes the outputs least in a trial.",
    )
    score_samples: Count = Field(
        default=256, description="Number of calibration samples that taylor, obd, activation and reconstruction use."
    )
    score_batch: Count = Field(
        default=16, description="Number of samples per gradient of taylor, obd and reconstruction."
    )
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Rank channels across the whole model (global), or remove the same share in each layer (layer).",
    )
    min_channels: Count = Field(default=4, description="Smallest number of channels in every layer.")
    align: Step = Field(
        default="auto",
        description="Keep the number of channels at a multiple of this value. auto takes 8, or less where the budget "
        "would be missed.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Patterns of layer or parameter names. Matching layers keep all their channels."
    )
    only: tuple[str, ...] = Field(
        default=(), description="Patterns of layer or parameter names. All other layers keep all their channels."
    )
    schedule: Literal["one_shot", "iterative", "gradual"] | None = Field(
        default=None,
        description="One cut (one_shot), several cuts with a full recovery after each (iterative), or several cuts "
        "within one recovery training (gradual).",
    )
    steps: Count | None = Field(
        default=None, description="Number of cuts. The default is 1 for one_shot, 3 for iterative and 5 for gradual."
    )
    ramp: Literal["geometric", "cubic", "linear"] | None = Field(
        default=None,
        description="How the budget falls over the steps. The default is geometric for iterative and cubic for "
        "gradual.",
    )
    tolerance: Positive = Field(default=1e-4, description="Largest relative error that the proof of a cut accepts.")
    reconstruct: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Fit the kept weights to calibration samples after each cut, so that each layer gives its former "
        "output; no labels are needed. auto does so if no training follows the cut.",
    )
    reconstruct_samples: Count = Field(
        default=256, description="Number of calibration samples that the reconstruction uses."
    )
    recover: RecoverOptions | None = Field(
        default_factory=RecoverOptions,
        description="Training after each cut. null cuts without training, and so does the default if the data have no "
        "labels.",
    )
    seed: Seed = Field(default=0, description="Random seed of random importance and of sampling.")

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that the user has given, by name."""
        given = {name: getattr(self, name) for name in BUDGETS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def timed(self) -> bool:
        """Whether the budget is a latency, which has to be measured."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def cuts(self) -> int:
        """The number of cuts."""
        return self.steps or (1 if self.schedule is None else SCHEDULE_STEPS[self.schedule])

    @model_validator(mode="after")
    def _one_budget(self) -> PruneOptions:
        if len(self.budgets) > 1 or not (self.budgets or self.layers):
            raise ValueError(f"give exactly one of {', '.join(BUDGETS)}, or `layers` alone")
        if self.schedule == "one_shot" and self.cuts > 1:
            raise ValueError(f"`schedule: one_shot` makes one cut, not {self.cuts}; use iterative or gradual for more")
        if self.timer is not None and not self.timed:
            raise ValueError("`timer` is only used with a latency budget; give `latency` or `latency_ms`")
        return self


class SparsifyOptions(Options):
    """Sparsity: set weights to zero, either anywhere or so that N of every M weights remain (2:4)."""

    pattern: str = Field(
        default="2:4",
        pattern=r"^(unstructured|[1-9][0-9]?:[1-9][0-9]?)$",
        description="Where weights become zero. `2:4` keeps 2 of every 4 weights along the input channels, as sparse "
        "tensor cores require; any N:M is possible; `unstructured` has no pattern.",
    )
    sparsity: Share = Field(
        default=0.5, description="Share of the weights that become zero in the unstructured pattern."
    )
    method: Literal["magnitude", "reconstruct"] = Field(
        default="reconstruct",
        description="Set the smallest weights to zero (magnitude), or those that change the output least, and adjust "
        "the other weights to compensate (reconstruct, SparseGPT).",
    )
    scope: Literal["global", "layer"] = Field(
        default="layer",
        description="Rank weights across the whole model (global), or set the same share to zero in each layer "
        "(layer).",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Patterns of layer or parameter names. Matching layers stay dense."
    )
    only: tuple[str, ...] = Field(
        default=(), description="Patterns of layer or parameter names. All other layers stay dense."
    )
    samples: Count = Field(default=256, description="Number of calibration samples that `reconstruct` uses.")
    batch: Count = Field(default=32, description="Number of calibration samples per batch.")
    damping: Positive = Field(
        default=0.01, description="Value added to the diagonal of the Hessian, as a share of the diagonal's mean."
    )
    recover: RecoverOptions | None = Field(
        default_factory=RecoverOptions, description="Training after the weights are set to zero. null trains nothing."
    )

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M of the pattern; None if the pattern is unstructured."""
        kept, _, size = self.pattern.partition(":")
        return (int(kept), int(size)) if size else None

    @model_validator(mode="after")
    def _fits(self) -> SparsifyOptions:
        if self.group is not None and self.group[0] >= self.group[1]:
            raise ValueError(f"`pattern: {self.pattern}` keeps every weight; N must be smaller than M, as in 2:4")
        if self.scope == "global" and (self.group is not None or self.method != "magnitude"):
            raise ValueError("`scope: global` requires `pattern: unstructured` and `method: magnitude`")
        return self
