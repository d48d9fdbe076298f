"""Choice of a ranking by trial cuts: the program is cut by every ranking, and the one whose outputs change least wins.

Scores of different groups can be made comparable in several ways, and none of them is best for every model: a
Transformer keeps far more accuracy with plain Taylor scores, a residual CNN with scores per cost. So it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.console import SILENT, Console
from ...core.data.splits import Split, batches
from ...core.errors import UserError
from ...core.facts.prune_facts import TrialLoss
from ...core.faults import raise_if_defect
from ...core.options.stage_options import Task
from ...core.system.memory import give_back
from ..graph.devices import as_tensor
from ..program import Program, evaluating
from ..training.output_distance import output_distance
from .coupling.labels import Mask
from .step import Ranked
from .surgery.slice_parameters import cut

_MOST = 1 << 24


class _DoesNotRunError(Exception):
    """A cut program does not run."""


@dataclass
class Trial:
    """Cuts a program by every ranking, and compares the outputs with those before the cut.

    Attributes:
        choose: returns the classes that a ranking would remove.
        limit: largest number of samples; fewer are used if outputs are large, so that memory stays bounded.
        losses: the result of every candidate after a call: its importance, its normalisation and its loss.
        refused: rankings by which the budget cannot be reached, with the reason.
    """

    split: Split
    task: Task
    choose: Callable[[Program, Ranked], Mask]
    limit: int = 128
    batch: int = 32
    console: Console = SILENT
    losses: list[TrialLoss] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __call__(self, program: Program, candidates: Sequence[Ranked]) -> Ranked:
        """The candidate with the smallest loss; the first if no trial cut is possible."""
        masks: dict[bytes, tuple[Mask, Ranked]] = {}
        for ranked in candidates if len(candidates) > 1 else ():
            try:
                mask = self.choose(program, ranked)
            except UserError as error:  # not reachable by this ranking; if by none, the real cut reports it
                self.refused.append(f"{ranked.criterion}, {ranked.normalize}: {error.message}")
                continue
            masks.setdefault(mask.tobytes(), (mask, ranked))
        if len(masks) < 2:
            return next((ranked for _, ranked in masks.values()), candidates[0])
        try:
            known = list(self._known(program))
        except UserError as error:  # no samples, or the program does not accept them in batches of this size
            self.console.warn(
                f"trial cuts are not possible: {error.message}; channels are ranked by {candidates[0].criterion}"
            )
            return candidates[0]
        judge = self._judge(known)
        best = (math.inf, candidates[0])
        with self.console.progress("trial cuts", len(masks)) as bar:
            for mask, ranked in masks.values():
                try:
                    loss = judge(cut(program, ranked.grouping.coupling, mask))
                except _DoesNotRunError:  # do not hide a wrong cut by choosing another: the proof names its operator
                    return ranked
                self.losses.append(TrialLoss(importance=ranked.criterion, normalize=ranked.normalize, loss=loss))
                best = min(best, (loss, ranked), key=lambda item: item[0])
                give_back()
                bar.advance()
        return best[1]

    def _judge(self, known: Sequence[tuple[list[Tensor], list[Tensor]]]) -> Callable[[Program], float]:
        """The function that measures the difference between a program's outputs and known ones; 0 if they are equal."""

        def _loss(candidate: Program) -> float:
            with evaluating(candidate), torch.no_grad():
                found = [output_distance(_run(candidate, inputs), outputs, self.task) for inputs, outputs in known]
            loss = sum(loss * rows for loss, rows in found) / max(sum(rows for _, rows in found), 1)
            return loss if math.isfinite(loss) else math.inf

        return _loss

    def _known(self, program: Program) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        stored = 0
        with evaluating(program), torch.no_grad():
            for raw, _ in batches(self.split, self.batch, min(self.limit, len(self.split))):
                feeds = program.signature.validate(raw)
                inputs = [as_tensor(value, torch.device("cpu")) for value in feeds.values()]
                outputs = [value for value in program.module(*inputs) if value.is_floating_point()]
                outputs = outputs[:1] if self.task == "classification" else outputs
                yield inputs, outputs
                stored += sum(value.numel() for value in (*inputs, *outputs))
                if stored > _MOST:
                    return


def _run(candidate: Program, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    try:
        outputs: Sequence[Tensor] = candidate.module(*inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise_if_defect(error)
        raise _DoesNotRunError from error
    return outputs
