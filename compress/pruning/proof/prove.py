"""The proof of a cut: the pruned program equals the original with the removed channels masked to zero.

Meaning of "masked to zero": the original graph runs node by node with its own parameters and constants, and every
value that an operator computes is set to zero where its channel is removed. So all readers of the value (the columns of
the next contraction, a sum, an attention product) read zeros there, even if the activation function maps zero to
another value. Statistics over channels (normalisations, means, maxima …) include only the kept channels; they are
computed here from masks and plain formulas. No code of the surgery is used: no parameter is sliced, no size rewritten,
no group counted. The pruned program runs in parallel without labels, and every floating-point value that it computes is
compared with the kept part of the masked value. A wrong rule (channels not united, a constant not rewritten) makes the
two differ.

The proof runs at two batch sizes with the program's own parameters, and once with random noise added to the parameters,
so that a branch behind a zero weight (a zero-initialised residual) is proven too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....core.errors import UserError, VerificationError
from ....core.tensors import Array
from ...graph.devices import as_array
from ...graph.rows import batch_axes, row_count, rows
from ...program import Program, ordered
from ..coupling.labels import Mask
from ..coupling.propagate import Coupling, couple
from ..coupling.shapes import bind, describe
from .dual_run import ComparedValue, DoesNotRunError, Run, Side, magnitude, side
from .masked_reference import Masks
from .perturbation import Noise

_NOISE = 0.25
_FLOOR = 1e-6
_ROUNDINGS = 16


@dataclass(frozen=True)
class Case:
    """Inputs, and the outputs of the masked program, which the file of the pruned program must reproduce.

    Attributes:
        feeds: one array per input.
        outputs: one array per output, in the order of the signature, rounded to the outputs' own types.
    """

    feeds: Mapping[str, Array]
    outputs: tuple[Array, ...]


@dataclass(frozen=True)
class Proof:
    """A successful proof.

    Attributes:
        error: largest relative error of any value.
        outputs: largest relative error of an output.
        dtype: ``float64``, or the program's own dtype if its graph does not run in double precision.
        batches: batch sizes of the proof.
        cases: the inputs and the outputs of the masked program at each batch size.
        reason: why the proof did not run in double precision; empty if it did.
    """

    error: float
    outputs: float
    dtype: str
    batches: tuple[int, ...]
    cases: tuple[Case, ...] = ()
    reason: str = ""


def prove(before: Program, after: Program, coupling: Coupling, removed: Mask, tolerance: float) -> Proof:
    """Prove a cut.

    Args:
        before: the program before the cut.
        after: the pruned program.
        coupling: labels of ``before``.
        removed: the removed classes, as a mask over labels.
        tolerance: largest accepted relative error: the largest difference in a value, divided by its largest magnitude.

    Raises:
        VerificationError: the programs differ; the message names the first operator whose value differs.
        UserError: the program runs only in half precision, whose rounding error is larger than the tolerance.
    """
    trials = _Trials(before, after, coupling, removed, tolerance)
    with _few_threads(before), torch.no_grad():
        try:
            return trials.run("float64")
        except DoesNotRunError as error:
            reason = str(error)
        dtype = _precision(before)
        _check_tolerance(tolerance, dtype)
        try:
            return replace(trials.run(dtype), reason=reason)
        except DoesNotRunError as error:
            raise VerificationError(
                f"the cut cannot be proven: the original program does not run on the inputs of the proof, at {error}",
                "give example inputs that stay valid when a little noise is added to floating-point values",
            ) from error


def _precision(program: Program) -> str:
    kinds = [item.dtype for item in program.module.parameters() if item.is_floating_point()]
    return str(kinds[0] if kinds else torch.float32).removeprefix("torch.")


def _check_tolerance(tolerance: float, dtype: str) -> None:
    least = _ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps
    if tolerance < least and dtype in ("float16", "bfloat16"):
        raise UserError(
            f"prune.tolerance {tolerance:g} cannot be met: the program has operators that run only in {dtype}, whose "
            f"rounding error is up to {least:.2g} of a value",
            f"set prune.tolerance to {least:.2g} or more, or prune the model in float32 and convert it afterwards",
            least=least,
        )


@dataclass(frozen=True)
class _Trials:
    """Dual runs of both programs: at two batch sizes, then once more with noise on the parameters."""

    before: Program
    after: Program
    coupling: Coupling
    removed: Mask
    tolerance: float

    def run(self, dtype: str) -> Proof:
        """Run all trials in one precision."""
        axes = batch_axes(self.before.signature)
        known = row_count(self.before.example, axes)
        sizes = (known, known - 1 if known > 2 else known + 1)
        wide = dtype == "float64"
        dense, pruned = side(self.before, wide), side(self.after, wide)
        worst = Proof(0.0, 0.0, dtype, sizes)
        for size in sizes:
            feeds = _feeds(self.before, size)
            error, outputs, case = self._lock_step(dense, pruned, feeds, self._labels(feeds, size == known), dtype)
            worst = replace(
                worst,
                error=max(worst.error, error),
                outputs=max(worst.outputs, outputs),
                cases=(*worst.cases, case),
            )
        noise, same_noise = (Noise(self.before, self.coupling, self.removed, cut) for cut in (False, True))
        dense, pruned = replace(dense, noise=noise), replace(pruned, noise=same_noise)
        error, outputs, _ = self._lock_step(dense, pruned, _feeds(self.before, known), self.coupling, dtype)
        return replace(worst, error=max(worst.error, error), outputs=max(worst.outputs, outputs))

    def _labels(self, feeds: dict[str, Tensor], known: bool) -> Coupling:
        if known:
            return self.coupling
        labels = couple(replace(self.before, example=feeds), self.coupling.narrow)
        if len(labels.unions) != len(self.coupling.unions):
            raise VerificationError(
                "the channels of this model depend on the batch size, so a cut cannot be proven",
                "make the shapes of parameters independent of the batch size",
            )
        return labels

    def _lock_step(
        self, dense: Side, pruned: Side, feeds: dict[str, Tensor], labels: Coupling, dtype: str
    ) -> tuple[float, float, Case]:
        """Largest error of any value and of an output; below double precision only the outputs decide."""
        run = Run(dense, pruned, feeds, Masks(labels, self.removed))
        worst, outputs, first = 0.0, 0.0, ""
        results = {item.name for item in dense.module.graph.output_node().all_input_nodes}
        for value in run.compared_values():
            error = _deviation(value, exact=value.node.name in results)
            worst = max(worst, error)
            outputs = max(outputs, error) if value.node.name in results else outputs
            if error > self.tolerance and not first:
                first = f"{describe(value.node)} (relative error {error:.2g})"
            if first and (dtype == "float64" or outputs > self.tolerance):
                raise VerificationError(
                    f"the cut is rejected: the pruned program differs from the masked one, first at {first}, where at "
                    f"most {self.tolerance:g} is accepted",
                    "the original program is unchanged; exclude this layer, and please report the operator",
                    node=value.node.name,
                    error=error,
                )
        return (worst if dtype == "float64" else outputs), outputs, _case(self.before, feeds, run.outputs)


def _case(program: Program, feeds: Mapping[str, Tensor], outputs: list[Tensor]) -> Case:
    kinds = [getattr(torch, spec.dtype) for spec in program.signature.outputs]
    results = tuple(as_array(value.to(kind)) for value, kind in zip(outputs, kinds, strict=True))
    return Case({name: as_array(value) for name, value in feeds.items()}, results)


@contextmanager
def _few_threads(program: Program) -> Iterator[None]:
    """Use one thread if convolutions are grouped: in double precision, every group would wait for all threads."""
    before = torch.get_num_threads()
    grouped = any("groups" in bind(node) and bind(node)["groups"] != 1 for node in program.module.graph.nodes)
    torch.set_num_threads(1 if grouped else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _feeds(program: Program, size: int) -> dict[str, Tensor]:
    """Example feeds of ``size`` rows in signature order, with noise on floating-point inputs."""
    generator = torch.Generator().manual_seed(size)
    feeds = rows(ordered(program), size, batch_axes(program.signature))
    for name, value in feeds.items():
        if value.is_floating_point():
            spread = float(value.float().std()) if value.numel() > 1 else 0.0
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
            feeds[name] = value + (noise * (spread * _NOISE if spread > 0 else 1.0)).to(value.dtype)
    return feeds


def _deviation(value: ComparedValue, exact: bool) -> float:
    """Largest difference divided by the largest magnitude; infinite if the shapes differ.

    The magnitude is at least a small share of that of the inputs, so that cancellation does not count as an error.

    Args:
        exact: integers must be equal; otherwise they are checked only through the values computed from them.
    """
    if value.shape != value.pruned.shape:
        return math.inf
    if not value.masked.is_floating_point() or value.masked.numel() == 0:
        return math.inf if exact and not all(torch.equal(one, two) for one, two in value.parts()) else 0.0
    largest = max(_FLOOR * value.scale, torch.finfo(torch.float32).tiny)
    worst = 0.0
    for one, two in value.parts():
        largest = max(largest, magnitude(one))
        worst = max(worst, float(_difference(one, two)), key=lambda item: math.inf if math.isnan(item) else item)
    return math.inf if math.isnan(worst) else worst / largest


def _difference(one: Tensor, two: Tensor) -> Tensor:
    """The largest difference of two tensors; equal infinities and two NaN do not count as a difference."""
    same = (one == two) | (one.isnan() & two.isnan())
    return torch.where(same, 0.0, (one - two).abs()).max()


__all__ = ["Case", "Proof", "prove"]
