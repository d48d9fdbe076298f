"""A captured program as a live object, which can be run, trained, saved and given to the next stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.artifact import Artifact, is_finished, load_artifact, stable_hash
from ....core.counts import counted
from ....core.data.splits import Splits
from ....core.errors import ModelError
from ....core.formats.program_file import read_signature
from ....core.signature import Signature
from ....core.tensors import Array
from ..data.feeds import as_numpy, bound, like_inputs
from ..workspace import Workspace
from .facts import Facts
from .notebook import ports, size_text, table
from .saving import save_artifact

if TYPE_CHECKING:
    from torch import nn

    from ....compress.program import Program as Captured


class Program:
    """A model between capture and export; ``capture``, the stages and ``load`` create it.

    Call it to run it in evaluation mode: ``program(x)`` takes tensors or arrays, by position or by name, and returns
    the same kind. Stages never change a program; each stage returns a new one.

    Attributes:
        stage: the stage that created it (``capture``, ``prune`` …).
        facts: facts of that stage; keys are also attributes.
        notes: warnings of that stage.
        data: the splits that were last used with it, which later stages use by default; or None.
    """

    def __init__(
        self,
        workspace: Workspace,
        artifact: Artifact | None = None,
        captured: Captured | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        data: Splits | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.workspace = workspace
        self.data = data
        self.notes = tuple(notes)
        self.stage = artifact.manifest.stage if artifact is not None else "capture"
        self._artifact, self._captured = artifact, captured
        self._more = dict(facts or {})
        self._module: nn.Module | None = None
        self._handed_out = ""

    @property
    def signature(self) -> Signature:
        """Names, dtypes and shapes of inputs and outputs."""
        if self._captured is not None:
            return self._captured.signature
        assert self._artifact is not None
        return read_signature(self._artifact.main)

    @cached_property
    def facts(self) -> Facts:
        """The facts of the stage."""
        known = dict(self._artifact.facts) if self._artifact is not None else {}
        if "macs" not in known or "parameters" not in known:
            from ....compress.program import cost

            spent = cost(self._program())
            known |= {"parameters": spent.parameters, "macs": spent.macs, "parameter_bytes": spent.parameter_bytes}
        return Facts({**known, **self._more})

    @property
    def module(self) -> nn.Module:
        """The program as a plain ``nn.Module`` for your own training loop.

        Its parameters are those of the program, so later stages use what the loop changes. ``train()`` and ``eval()``
        switch the dropout, BatchNorm and recurrent layers. It returns a single output as a tensor and several as a
        named tuple.
        """
        if self._module is None:
            from ....compress.training.checkpoint import state_hash
            from ....compress.training.trainable import Trainable

            program = self._program()
            self._handed_out = state_hash(program.module.state_dict())
            self._module = Trainable(program)
        return self._module

    @property
    def artifact(self) -> Artifact:
        """The program as an artifact on disk, for the functions of ``retort.pipeline.stages``; it is written if needed.

        Raises:
            ModelError: the module was converted to another dtype.
            StorageError: the disk is full or not writable.
        """
        if self._artifact is None or self._was_trained():
            self._artifact = self._stored()
        return self._artifact

    @property
    def path(self) -> Path:
        """The folder of the artifact; a temporary folder unless a work folder was given."""
        return self.artifact.path

    def example(self, rows: int = 4) -> dict[str, Array]:
        """The example inputs of its capture, by name, as the model takes them: at most ``rows`` samples."""
        from ....compress.graph.devices import as_array
        from ....compress.graph.rows import batch_axes, row_count
        from ....compress.graph.rows import rows as first

        program = self._program()
        axes = batch_axes(program.signature)
        feeds = first(program.example, min(rows, row_count(program.example, axes)), axes)
        return {name: as_array(value) for name, value in feeds.items()}

    def save(self, path: str | Path) -> Path:
        """Write the program as a ``.pt2`` file, or with its facts as an artifact folder.

        Args:
            path: a path that ends in ``.pt2``; or a folder that does not exist yet or contains only an artifact, which
                is replaced.

        Returns:
            The path, for ``retort.load``.

        Raises:
            UserError: the suffix is wrong, or the folder contains files that Retort did not write.
            StorageError: the disk is full or not writable.
        """
        return save_artifact(self.artifact, Path(path), ".pt2", "export it with `retort.export(program, path)`")

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Run the program in evaluation mode, without gradients.

        Args:
            values: tensors or arrays ``[N, …]``, in the order of the signature.
            named: tensors or arrays by name; a single positional mapping is also read by name.

        Returns:
            The output, or a mapping of several outputs: tensors if any input is a tensor, else arrays.

        Raises:
            InputError: names, shapes or dtypes do not fit the signature.
        """
        import torch

        from ....compress.graph.devices import as_array, as_tensor
        from ....compress.program import device_of, evaluating

        program = self._program()
        feeds = bound(self.signature, values, named)
        checked = self.signature.validate({name: as_numpy(value) for name, value in feeds.items()})
        inputs = [as_tensor(value, device_of(program)) for value in checked.values()]
        with torch.no_grad():
            if program.module.training:
                with evaluating(program):
                    found = program.module(*inputs)
            else:
                found = program.module(*inputs)
        names = [spec.name for spec in self.signature.outputs]
        keep = any(isinstance(value, torch.Tensor) for value in feeds.values())
        return like_inputs(dict(zip(names, found)), None if keep else as_array)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return Program(self.workspace, self.artifact, facts=self._more, data=self.data, notes=self.notes)

    def __repr__(self) -> str:
        facts = self.facts
        where = "in memory" if self._artifact is None else self._artifact.path
        size = facts.get("parameter_bytes") or facts.get("size_bytes")
        parameters = counted(facts.parameters, "parameter") + (f" ({size_text(size)})" if size else "")
        macs = f"{facts.macs:,} MACs per sample"
        return f"Program ({self.stage}): {ports(self.signature)}\n  {parameters}, {macs}\n  {where}"

    def _repr_html_(self) -> str:
        facts, signature = self.facts, self.signature
        rows = [("input", spec.describe()) for spec in signature.inputs]
        rows += [("output", spec.describe()) for spec in signature.outputs]
        rows += [("parameters", f"{facts.parameters:,}"), ("MACs per sample", f"{facts.macs:,}")]
        where = "in memory" if self._artifact is None else str(self._artifact.path)
        return table([*rows, *[("note", note) for note in self.notes], ("path", where)], f"Program ({self.stage})")

    def _program(self) -> Captured:
        if self._captured is None:
            from ....compress.program import load_program

            assert self._artifact is not None
            self._captured = load_program(self._artifact.main)
        return self._captured

    def _was_trained(self) -> bool:
        if self._module is None:
            return False
        from ....compress.training.checkpoint import state_hash

        return state_hash(self._program().module.state_dict()) != self._handed_out

    def _stored(self) -> Artifact:
        """The current program with a key from its graph and its weights."""
        from ....compress.program import clone, device_of, move, store
        from ....compress.training.checkpoint import state_hash

        program = self._program()
        state = state_hash(program.module.state_dict())
        named = program.signature.to_json(), program.meta, program.module.code, state
        stage = "trained" if self._module is not None and state != self._handed_out else self.stage
        place = self.workspace.place(stage, stable_hash(["live", stage, *named]))
        _check_dtypes(program)
        if not is_finished(place.directory):
            if device_of(program).type != "cpu":
                program = clone(program)
                move(program, "cpu")
            store(program, place, stage)
        self._handed_out = state
        return load_artifact(place.directory)


def _check_dtypes(program: Captured) -> None:
    import torch

    halves = [
        name for name, weight in program.module.named_parameters() if weight.dtype in (torch.half, torch.bfloat16)
    ]
    wanted = {spec.dtype for spec in program.signature.inputs}
    if halves and not wanted & {"float16", "bfloat16"} and len(halves) == len(list(program.module.parameters())):
        raise ModelError(
            f"the parameters are in half precision ('{halves[0]}' …), but the inputs are not",
            "call `program.module.float()`; train with autocast, and let `export` choose the precision",
        )
