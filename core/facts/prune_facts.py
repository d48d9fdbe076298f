"""Facts of pruning: its cuts and their proofs, the measured latency, and the zeros of a sparse program."""

from __future__ import annotations

from typing import Literal

from ..metrics.ratio import Ratio
from .program_facts import ProgramFacts, Training
from .quantize_facts import Fidelity
from .record import Record

LatencyVerdict = Literal["landed", "missed", "cannot tell"]


class CutProof(Record):
    """The proof that a cut program computes the same as the masked program.

    Attributes:
        relative_error: largest relative error of any value.
        output_relative_error: largest relative error of an output.
        dtype: ``float64``, or the program's own type if its graph does not run in double precision.
        reason: why it was not proven in double precision; empty if it was.
        batches: batch sizes at which it was proven.
    """

    relative_error: float
    output_relative_error: float
    dtype: str
    reason: str = ""
    batches: tuple[int, ...]


class FileProof(Record):
    """The result of comparing the ONNX file of a cut program with the masked program.

    Attributes:
        error: largest relative error of an output of the file; None if there was no comparison.
        reason: why there was no comparison.
    """

    error: float | None
    reason: str = ""


class TrialLoss(Record):
    """The loss of a trial cut by one ranking.

    Attributes:
        importance: what the ranking measures.
        normalize: how the scores of different groups were made comparable.
        loss: the loss on calibration samples.
    """

    importance: str
    normalize: str
    loss: float


class ReconstructedLayer(Record):
    """A layer whose weights were fitted to calibration samples after a cut.

    Attributes:
        name: path of the weight.
        inputs: number of inputs of each output.
        method: ``least squares`` for all weights, ``scale`` for one factor per output (layers with very many inputs),
            ``bias`` for the bias alone, or ``none`` if the weights after the cut have the smallest error.
        error_before: mean squared error after the cut, as a share of the output's variance, on held-out samples.
        error_after: the same after the reconstruction.
    """

    name: str
    inputs: int
    method: str
    error_before: float
    error_after: float


class Reconstruction(Record):
    """The reconstruction of the kept weights after a cut.

    Attributes:
        samples: number of calibration samples.
        layers: the layers, in the order in which they were fitted.
        before: the outputs after the cut, compared with those before it, on samples of the validation split.
        after: the same after the reconstruction.
        kept: whether the fitted weights are kept; they are not if the outputs did not get more similar.
        reason: why there is no reconstruction; empty if there is one.
    """

    samples: int
    layers: tuple[ReconstructedLayer, ...] = ()
    before: Fidelity | None = None
    after: Fidelity | None = None
    kept: bool = False
    reason: str = ""


class PruneStep(Record):
    """One cut.

    Attributes:
        asked: share of the cost, or of the time, to keep.
        got: share of the cost that is left.
        importance: what the channels were ranked by.
        normalize: how the scores of different groups were made comparable.
        importance_unmeasured: why channels could not be ranked by gradients; empty if they could.
        proof: the proof of the cut.
        file: the comparison of its ONNX file.
        trials: results of trial cuts by other rankings.
        trials_refused: rankings by which the budget could not be reached, with the reason.
        reconstruction: the reconstruction of the kept weights; None if there is none.
        recovery: the training after the cut; None without one.
        cpu_seconds: CPU time of each phase in seconds; only while the pruning runs, because the manifest has the sums.
    """

    asked: float
    got: float
    importance: str
    normalize: str
    importance_unmeasured: str = ""
    proof: CutProof
    file: FileProof
    trials: tuple[TrialLoss, ...]
    trials_refused: tuple[str, ...] = ()
    reconstruction: Reconstruction | None = None
    recovery: Training | None
    cpu_seconds: dict[str, float] | None = None


class PrunedGroup(Record):
    """A group of channels that can be cut.

    Attributes:
        name: name of its leading layer.
        layers: names of the layers that it spans.
        channels_before: channels of the leading layer before pruning.
        channels_after: channels of the leading layer after pruning.
    """

    name: str
    layers: tuple[str, ...]
    channels_before: int
    channels_after: int


class LockedGroup(Record):
    """A group of channels that cannot be cut.

    Attributes:
        name: name of its leading layer.
        channels: channels of the leading layer.
        reason: why it stays whole.
    """

    name: str
    channels: int
    reason: str


class PruneTiming(Record):
    """Durations of a pruning.

    Attributes:
        recover_seconds: duration of the training after all cuts.
        cpu_seconds: CPU time of each phase in seconds, summed over all steps.
    """

    recover_seconds: float
    cpu_seconds: dict[str, float]


class PruneLatency(Record):
    """The requested and the measured latency, if the budget is a latency.

    Attributes:
        asked_ms: the requested time in milliseconds.
        asked_share: the requested share of the original program's time.
        dense_ms: the time of the original program in milliseconds.
        got_ms: the time of the pruned program in milliseconds.
        got_low_ms: lower end of its interval; None if too few rounds were timed.
        got_high_ms: upper end of its interval; None if too few rounds were timed.
        got_share: the reached share of the original program's time.
        speedup: the speedup over the original program.
        within: whether the reached share is within 5 % of the requested one.
        verdict: ``landed`` or ``missed``, or ``cannot tell`` if the interval spans a bound.
        device: the device that ran both programs, and its settings.
        batch: rows per run.
        threads: threads of the runtime.
        tried: share of the original time of each candidate that was timed, in order.
    """

    asked_ms: float
    asked_share: float
    dense_ms: float
    got_ms: float
    got_low_ms: float | None
    got_high_ms: float | None
    got_share: float
    speedup: Ratio
    within: bool
    verdict: LatencyVerdict
    device: str
    batch: int
    threads: int
    tried: tuple[float, ...]


class PruneFacts(ProgramFacts):
    """Facts of the prune stage.

    Attributes:
        budget: what was bounded: ``macs``, ``parameters``, ``latency`` …, or ``layers`` for fixed widths alone.
        asked: the share to keep of what the budget counts.
        got: the share that is left.
        parameters_before: number of trainable values before pruning.
        parameters_after: number of trainable values after pruning.
        macs_before: multiply-accumulates for one sample before pruning.
        macs_after: multiply-accumulates for one sample after pruning.
        groups: the groups that could be cut.
        locked: the groups that could not be cut.
        unknown_operators: why channels are locked by operators without a rule.
        steps: the cuts, in order.
        proof_relative_error: largest relative error of all proofs.
        timing: durations.
        latency: the measured latency, if it was the budget.
        fidelity: the outputs of the finished program, compared with those of the original program, on samples of the
            validation split (of the calibration split if there is none); None without samples.
        ruined: whether these outputs are too different to be useful without training.
    """

    budget: str
    asked: float
    got: float
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    groups: tuple[PrunedGroup, ...]
    locked: tuple[LockedGroup, ...]
    unknown_operators: tuple[str, ...]
    steps: tuple[PruneStep, ...]
    proof_relative_error: float
    timing: PruneTiming
    latency: PruneLatency | None = None
    fidelity: Fidelity | None = None
    ruined: bool = False


class SparseLayer(Record):
    """A weight with zeros.

    Attributes:
        name: name of the parameter.
        zeros: share of its values that are zero.
        method: ``magnitude`` or ``reconstruct``.
    """

    name: str
    zeros: float
    method: str


class DenseLayer(Record):
    """A weight that stays dense.

    Attributes:
        name: name of the parameter.
        reason: why it has no zeros.
    """

    name: str
    reason: str


class SparsifyFacts(ProgramFacts):
    """Facts of the sparsify stage.

    Attributes:
        pattern: ``2:4``, another N:M, or ``unstructured``.
        zeros: share of the values of all sparse weights that are zero.
        layers: the sparse weights.
        dense: the weights that stay dense.
        recovery: the training after the zeros were set, if there was one.
    """

    pattern: str
    zeros: float
    layers: tuple[SparseLayer, ...]
    dense: tuple[DenseLayer, ...]
    recovery: Training | None = None
