"""The settings of a packed model: what follows from the options, from the largest legal request, and from a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core.backends.ort_tensorrt import ranges_of
from ...core.backends.trt_plan import Plan
from ...core.errors import UserError
from ...core.options.axis_ranges import parse_axis
from ...core.options.execution_provider import given_options
from ...core.options.serving_options import BundleOptions
from ...core.postprocessing import guessed_reading
from ...core.session import PROVIDERS, Ranges
from ...core.signature import Signature
from ...core.tensors import BATCH
from ..engine import split_golden
from ..requests.allowance import allowance
from ..settings import Batching, Limits, Settings
from .bundle import Parts

_LARGEST_RATIO = 4


@dataclass(frozen=True)
class Policy:
    """How requests are treated; see :class:`retort.serve.settings.Settings` for each field."""

    batching: Batching = "exact"
    buckets: tuple[int, ...] = ()
    allow_nan: bool = False
    spinning: bool = False


def settings_of(options: BundleOptions, policy: Policy, parts: Parts) -> Settings:
    """The settings that follow from the options, the policy and the largest legal request of the model.

    The front end takes twice that request, so that what is slightly too large is refused by the worker, in words.
    """
    expanded = max(Limits.expanded_bytes, _LARGEST_RATIO * options.max_request_bytes)
    rows = options.max_rows if parts.plan is None else _rows_of(parts.plan, options)
    limits = Limits(request_bytes=options.max_request_bytes, expanded_bytes=expanded, rows=rows)
    largest = 2 * allowance(parts.signature, limits).body_bytes
    limits = replace(limits, request_bytes=min(limits.request_bytes, largest))
    return Settings(
        name=options.name,
        version=options.version,
        batching=policy.batching,
        batch_size=options.batch_size,
        buckets=policy.buckets if parts.plan is None else policy.buckets or _sizes_of(parts.plan, rows, options),
        workers=options.workers,
        threads=options.threads,
        spinning=policy.spinning,
        providers=PROVIDERS[options.provider][:1] if parts.plan is None else (),
        provider_options=given_options(options.provider_option, options.provider),
        ranges=_ranges(options, parts.signature) if parts.plan is None else {},
        allow_nan=policy.allow_nan,
        scores=options.scores
        if options.scores != "auto"
        else guessed_reading(parts.signature, split_golden(parts.golden)[1]),
        top_k=options.top_k,
        hook=bool(parts.hook),
        engine="" if parts.plan is None else parts.plan.requirement,
        limits=limits,
    )


def _rows_of(plan: Plan, options: BundleOptions) -> int:
    """The largest number of rows of a request, which no profile of the plan may lack (serve.md H18).

    Raises:
        UserError: an option is for ONNX files, or the plan takes no single sample.
    """
    asked = {"--axis": options.axis, "--provider-option": options.provider_option}
    for flag, values in asked.items():
        if values:
            raise UserError(f"{flag} {values[0]} is for ONNX files, and a plan is built already", "leave it out")
    if options.provider not in ("cpu", "tensorrt"):
        message = f"--provider {options.provider} does not run a plan, which TensorRT itself runs"
        raise UserError(message, "leave it out, or pack the ONNX file")
    largest = plan.largest_batch
    if largest == 0:
        sizes = " and ".join(f"{low} to {high}" for low, _, high in plan.batches)
        raise UserError(
            f"{plan.path.name} takes batches of {sizes}, and no single sample",
            "build it with `--batch-sizes 1` among its sizes",
        )
    return options.max_rows if largest is None else min(options.max_rows, largest)


def _sizes_of(plan: Plan, rows: int, options: BundleOptions) -> tuple[int, ...]:
    """The sizes to which batches are padded, so that few contexts and graphs serve all: powers of two, and usual ones.

    None is beyond the profiles, and none much larger than the batches that the server forms.
    """
    if not plan.batches:
        return ()
    most = min(rows, 1 << (options.batch_size - 1).bit_length())
    powers = {1 << power for power in range(most.bit_length())}
    usual = {usual for _, usual, _ in plan.batches}
    return tuple(sorted(size for size in powers | usual | {most} if size <= most))


def _ranges(options: BundleOptions, signature: Signature) -> Ranges:
    """The range of every dynamic axis for the provider of TensorRT, which builds an engine for them.

    Raises:
        UserError: an axis does not exist, has no range, or has one that does not fit.
    """
    if options.provider != "tensorrt":
        if options.axis:
            raise UserError(f"--axis {options.axis[0]} is only for the provider tensorrt", "leave it out")
        return {}
    batch = (1, min(options.batch_size, options.max_rows), options.max_rows)
    return ranges_of(signature, {BATCH: batch, **dict(parse_axis(item) for item in options.axis)})
