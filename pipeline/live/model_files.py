"""Model files that a script holds: ONNX graphs, TensorRT engines and archives, with what is known of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.artifact import Artifact, Kind
from ...core.data.splits import Splits
from ...core.options.stage_options import Provider
from ...core.session import PROVIDERS, Session, SessionOptions, open_session
from ...core.tensors import Signature
from .facts import Facts
from .feeds import as_numpy, bound, like_inputs
from .notebook import ports, size_text, table
from .programs import Program, save_artifact
from .workspace import Workspace

if TYPE_CHECKING:
    from typing import ClassVar


class ModelFile(os.PathLike[str]):
    """A file that a stage wrote, or that was there already. It can be given wherever a path is taken.

    Attributes:
        path: the file; in a temporary folder unless a path or a work folder was named.
        facts: what the stage found out; keys are attributes, too.
        notes: what the stage warned of.
        program: the program that it was made from, where this session made it; else None.
        data: the splits that it was last given; or None.
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
        """The stage that wrote it; ``file`` for one that was there already."""
        return self.artifact.manifest.stage

    @cached_property
    def facts(self) -> Facts:
        """What the stage found out."""
        return Facts(self.artifact.facts)

    def save(self, path: str | Path) -> Path:
        """Copy the file with its side files, or with a path without suffix the whole artifact folder.

        Returns:
            The path, for ``retort.load``.

        Raises:
            UserError: another suffix, or a folder that exists and is no artifact.
            StorageError: the disk is full or not writable.
        """
        return save_artifact(self.artifact, Path(path), self.suffix, f"it is a {self.kind}")

    def __fspath__(self) -> str:
        return str(self.path)

    def _lines(self) -> list[tuple[str, str]]:
        return []

    def _size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.artifact.manifest.files.values() if self.path.is_file())

    def __repr__(self) -> str:
        told = [f"{label} {text}" for label, text in self._lines() if label not in ("input", "output")]
        where = f"{size_text(self.path.stat().st_size)} in {self.path}" if self.path.exists() else f"gone: {self.path}"
        return f"{type(self).__name__}{self._head()}\n  " + "\n  ".join([*told, where])

    def _head(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        size = size_text(self.path.stat().st_size) if self.path.exists() else "gone"
        notes = [("note", note) for note in self.notes]
        return table([*self._lines(), ("size", size), *notes, ("lies", str(self.path))], type(self).__name__)


class Runnable(ModelFile):
    """A file that a session opens. Call it to run it: ``graph(x)`` takes tensors or arrays and gives arrays."""

    def session(self, *, threads: int = 1, provider: Provider = "cpu") -> Session:
        """Open it with its runtime.

        Args:
            threads: of the runtime; 0 leaves the choice to it.
            provider: what ONNX Runtime must really run it on.

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
            named: likewise by name; a single mapping by position is read as names.

        Returns:
            The output as an array, or a mapping of arrays where there are several.

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
    """An ONNX file, run by ONNX Runtime; made by ``export``, by stages on ONNX files, or by ``load``."""

    kind = "graph"
    suffix = ".onnx"

    def _lines(self) -> list[tuple[str, str]]:
        facts = self.artifact.facts
        told = [("target", f"{facts['target']}, opset {facts['opset']}")] if "opset" in facts else []
        errors = [item["error"] for item in facts.get("parity", ())]
        told += [("parity", f"{max(errors):.1e} of the outputs' scale against PyTorch")] if errors else []
        return [*self._ports(), *told]


class Engine(Runnable):
    """A TensorRT plan, run by the TensorRT that it was built with; made by ``engine`` or by ``load``."""

    kind = "engine"
    suffix = ".plan"

    def _head(self) -> str:
        return f" ({self.stage})"  # a plan opens only beside its GPU

    def _lines(self) -> list[tuple[str, str]]:
        found = self.artifact.facts.get("engine")
        if found is None:
            return []
        device = found["device"]["name"] or "no GPU of this machine"
        profiles = "; ".join(f"{name} {shapes}" for profile in found["profiles"] for name, shapes in profile.items())
        return [("built by", f"{found['runtime']} {found['version']} for {device}"), ("profiles", profiles)]


class Report(ModelFile):
    """One HTML file for a browser; made by ``result.save`` and by recipes."""

    kind = "report"
    suffix = ".html"


class Archive(ModelFile):
    """A TorchServe archive that carries its own runtime; made by ``pack`` or by ``load``."""

    kind = "archive"
    suffix = ".mar"

    def _head(self) -> str:
        options = self.artifact.manifest.options
        return f" ({options['name']} {options['version']})" if "name" in options and "version" in options else ""

    def _lines(self) -> list[tuple[str, str]]:
        return [("serve", f"retort serve {self.path}")]
