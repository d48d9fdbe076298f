"""Model files as live objects: ONNX graphs, TensorRT engines and archives, with their facts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.artifact import Artifact
from ....core.counts import with_article
from ....core.data.splits import Splits
from ....core.facts.engine_facts import EngineFacts
from ....core.facts.export_facts import ExportFacts
from ....core.kinds import Kind
from ....core.options.stage_options import Provider
from ....core.session import PROVIDERS, Session, SessionOptions, open_session
from ....core.signature import Signature
from ..data.feeds import as_numpy, bound, like_inputs
from ..workspace import Workspace
from .facts import Facts
from .notebook import ports, size_text, table
from .programs import Program
from .saving import save_artifact

if TYPE_CHECKING:
    from typing import ClassVar


class ModelFile(os.PathLike[str]):
    """A file that a stage wrote, or that existed before. It can be used wherever a path is expected.

    Attributes:
        path: the file; it is in a temporary folder unless a path or a work folder was given.
        facts: facts of the stage; keys are also attributes.
        notes: warnings of the stage.
        program: the program from which it was made, if this process made it; else None.
        data: the splits that were last used with it, or None.
    """

    kind: ClassVar[Kind]
    suffix: ClassVar[str]
    opened_by: ClassVar[str] = "retort.open_session"

    def __init__(
        self,
        workspace: Workspace,
        artifact: Artifact,
        *,
        path: Path | None = None,
        program: Program | None = None,
        data: Splits | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.workspace = workspace
        self.artifact = artifact
        self.program = program
        self.data = data
        self.notes = tuple(notes)
        self.path = path or artifact.main

    @property
    def stage(self) -> str:
        """The stage that wrote it; ``file`` for a file that existed before."""
        return self.artifact.manifest.stage

    @cached_property
    def facts(self) -> Facts:
        """The facts of the stage."""
        return Facts(self.artifact.facts)

    def save(self, path: str | Path) -> Path:
        """Copy the file and its external weights; for a path without suffix, copy the whole artifact folder.

        External weights are stored in ``<name>.data`` next to the copy.

        Returns:
            The path, for ``retort.load``.

        Raises:
            UserError: the suffix is wrong, or the path holds files that Retort did not write or that
                belong to another model.
            StorageError: the disk is full or not writable.
        """
        return save_artifact(self.artifact, Path(path), self.suffix, f"it is {with_article(self.kind)}")

    def __fspath__(self) -> str:
        return str(self.path)

    def _lines(self) -> list[tuple[str, str]]:
        return []

    def __repr__(self) -> str:
        lines = [f"{label} {text}" for label, text in self._lines() if label not in ("input", "output")]
        exists = self.path.exists()
        where = f"{size_text(_bytes_of(self.path))} in {self.path}" if exists else f"deleted: {self.path}"
        return f"{type(self).__name__}{self._head()}\n  " + "\n  ".join([*lines, where])

    def _head(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        size = size_text(_bytes_of(self.path)) if self.path.exists() else "deleted"
        notes = [("note", note) for note in self.notes]
        return table([*self._lines(), ("size", size), *notes, ("path", str(self.path))], type(self).__name__)


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


class Runnable(ModelFile):
    """A file that can be run: ``graph(x)`` takes tensors or arrays and returns arrays."""

    def session(self, *, threads: int = 1, provider: Provider = "cpu") -> Session:
        """Open the file with its runtime.

        Args:
            threads: number of runtime threads; 0 lets the runtime choose.
            provider: execution provider on which ONNX Runtime must run the file, or ``openvino``.

        Raises:
            ArtifactError: the file is damaged.
            MachineError: the runtime or the provider is not installed.
        """
        return open_session(self.path, SessionOptions(threads=threads, providers=PROVIDERS[provider]))

    @property
    def signature(self) -> Signature:
        """Names, dtypes and shapes of inputs and outputs."""
        return self._session.signature

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Run one batch on one thread of the CPU.

        Args:
            values: tensors or arrays ``[N, …]``, in the order of the signature.
            named: tensors or arrays by name; a single positional mapping is also read by name.

        Returns:
            The output as an array, or a mapping of arrays if there are several outputs.

        Raises:
            InputError: names, shapes or dtypes do not fit the signature.
        """
        feeds = bound(self.signature, values, named)
        return like_inputs(dict(self._session.run({name: as_numpy(value) for name, value in feeds.items()})), None)

    @cached_property
    def _session(self) -> Session:
        return self.session()

    def _head(self) -> str:
        return f" ({self.stage}): {ports(self.signature)}" if self.path.exists() else f" ({self.stage})"

    def _ports(self) -> list[tuple[str, str]]:
        signature = self.signature if self.path.exists() else Signature((), ())
        inputs = [("input", spec.describe()) for spec in signature.inputs]
        return inputs + [("output", spec.describe()) for spec in signature.outputs]


class Graph(Runnable):
    """An ONNX file that ONNX Runtime runs; ``export``, stages on ONNX files and ``load`` create it."""

    kind = "graph"
    suffix = ".onnx"

    def _lines(self) -> list[tuple[str, str]]:
        if not self.artifact.facts:
            return self._ports()
        facts = self.artifact.facts_as(ExportFacts)
        errors = [item.error for item in facts.parity]
        parity = [("parity", f"{max(errors):.1e} of the outputs' scale against PyTorch")] if errors else []
        return [*self._ports(), ("target", f"{facts.target}, opset {facts.opset}"), *parity]


class Engine(Runnable):
    """A TensorRT plan that runs with the TensorRT with which it was built; ``engine`` and ``load`` create it."""

    kind = "engine"
    suffix = ".plan"

    def _head(self) -> str:
        return f" ({self.stage})"  # the signature of a plan can be read only on its GPU

    def _lines(self) -> list[tuple[str, str]]:
        if not self.artifact.facts:
            return []
        found = self.artifact.facts_as(EngineFacts).engine
        device = found.device.name or "no GPU of this machine"
        profiles = "; ".join(f"{name} {shapes}" for profile in found.profiles for name, shapes in profile.items())
        return [("built by", f"{found.runtime} {found.version} for {device}"), ("profiles", profiles)]


class Report(ModelFile):
    """One HTML file for a browser; ``result.save`` and recipes create it."""

    kind = "report"
    suffix = ".html"


class Bundle(ModelFile):
    """A folder with a model and its own runtime, which any Python server can open; ``bundle`` and ``load`` create it.

    Attributes:
        path: the folder.
    """

    kind: ClassVar[Kind] = "bundle"
    suffix = ""
    opened_by = "retort.load"

    def __init__(self, workspace: Workspace, artifact: Artifact, **more: Any) -> None:
        super().__init__(workspace, artifact, **more)
        self.path = self.path if self.path.is_dir() or self.path != artifact.main else artifact.path

    def _head(self) -> str:
        options = self.artifact.manifest.options
        return f" ({options['name']} {options['version']})" if "name" in options and "version" in options else ""

    def _lines(self) -> list[tuple[str, str]]:
        return [("pack", f"retort pack {self.path} --target …")]


class Deployment(Bundle):
    """A folder with a bundle and what another server than TorchServe needs around it; ``pack`` and ``load`` create it.

    Attributes:
        path: the folder.
    """

    kind = "deployment"

    def _lines(self) -> list[tuple[str, str]]:
        from ....serve.targets.stage import commands_of

        return list(commands_of(self.artifact).items())


class Archive(ModelFile):
    """A TorchServe archive that contains its own runtime; ``pack`` and ``load`` create it."""

    kind = "archive"
    suffix = ".mar"

    def _head(self) -> str:
        options = self.artifact.manifest.options
        return f" ({options['name']} {options['version']})" if "name" in options and "version" in options else ""

    def _lines(self) -> list[tuple[str, str]]:
        return [("serve", f"retort serve {self.path}")]
