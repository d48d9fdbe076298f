"""How commands describe the artifacts that they write or find."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact
from ..core.console import Console
from ..core.data.class_labels import shortened
from ..core.facts.any_facts import AnyFacts
from ..core.formats.program_file import read_signature
from ..core.signature import Signature
from ..pipeline.runs import forecast
from ..pipeline.runs.forecast import Step

if TYPE_CHECKING:
    from ..serve.signing.trust import Signer


def print_artifact(artifact: Artifact, screen: Console, more: Mapping[str, Any] | None = None) -> None:
    """Print what a command wrote, as one line of text or as JSON."""
    facts = artifact.facts_as(AnyFacts)
    counts = ((facts.parameters, "parameters"), (facts.macs, "MACs"))
    shown = [f"{count:,} {label}" for count, label in counts if count is not None]
    text = f"{artifact.path}  ({', '.join([artifact.kind, *shown])})"
    if artifact.kind == "archive":
        text += f"\nto serve it: retort serve {shlex.quote(str(artifact.path))} --port 8080"
    if artifact.kind == "deployment":
        from ..serve.targets.stage import commands_of

        text += "".join(f"\n{what}: {command}" for what, command in commands_of(artifact).items())
    screen.result({**described(artifact), **(more or {})}, text)


def print_plan(recipe: Path, steps: Sequence[Step], screen: Console) -> None:
    """Print what a run would do: a table, or JSON."""
    screen.table(f"{recipe}: what a run would do", *forecast.table(steps), words=True)
    screen.result({"stages": [step.to_dict() for step in steps]}, forecast.summary(steps))


def described(artifact: Artifact) -> dict[str, Any]:
    """An artifact as JSON."""
    files = {name: entry.sha256 for name, entry in artifact.manifest.files.items()}
    return {
        "path": str(artifact.path),
        "kind": artifact.kind,
        "stage": artifact.manifest.stage,
        "key": artifact.key,
        "files": files,
        "facts": artifact.facts,
    }


def row(artifact: Artifact) -> tuple[str, ...]:
    """An artifact as a line of `retort show`."""
    facts = artifact.facts_as(AnyFacts)
    size = sum(entry.size_bytes for entry in artifact.manifest.files.values())
    counts = ["" if count is None else f"{count:,}" for count in (facts.parameters, facts.macs)]
    return artifact.path.name, artifact.kind, artifact.key[:12], f"{size:,}", *counts


def verify_archives(artifacts: Sequence[Artifact], screen: Console) -> list[Signer | None]:
    """Check the content of archives and bundles as a server does before it opens them.

    Returns:
        Who signed each artifact; None where nobody did, and for other kinds.

    Raises:
        ArtifactError: one would not be served.
    """
    from ..serve.bundles.bundled import verified_signer
    from ..serve.signing.trust import Trust
    from ..serve.targets.stage import bundle_of
    from ..serve.torchserve.archives.archive import open_mar

    trust = Trust.chosen()
    found: list[Signer | None] = []
    for artifact in artifacts:
        if artifact.kind == "archive":
            found.append(open_mar(artifact, trust, screen).signer)
        else:
            bundled = artifact.kind in ("bundle", "deployment")
            found.append(verified_signer(bundle_of(artifact), trust) if bundled else None)
    return found


def signature_of(artifact: Artifact) -> Signature | None:
    """Inputs and outputs of a program, a graph, an engine, a bundle, a deployment or an archive; None for other kinds.

    Raises:
        ArtifactError: the file is damaged.
        MissingFileError: the file of its weights is missing.
    """
    if artifact.kind == "graph":
        from ..export.files import graph_signature, read_graph

        model = read_graph(artifact.main)
        tensors = all(port.type.HasField("tensor_type") for port in (*model.graph.input, *model.graph.output))
        return graph_signature(model, artifact.main) if tensors else None
    if artifact.kind == "program":
        return read_signature(artifact.main)
    if artifact.kind == "archive":
        from ..serve.engine import SIGNATURE
        from ..serve.torchserve.archives.mar import read_member

        return Signature.from_json(read_member(artifact.main, SIGNATURE))
    stored = artifact.main.with_name("signature.json")
    if artifact.kind == "deployment":
        from ..serve.targets.stage import bundle_of

        return Signature.from_json((bundle_of(artifact) / stored.name).read_bytes())
    return (
        Signature.from_json(stored.read_bytes()) if artifact.kind in ("engine", "bundle") and stored.is_file() else None
    )


def ports(signature: Signature) -> list[tuple[str, str, str, str]]:
    """Inputs and outputs as rows of a table: side, name, type, axes."""
    sides = (("input", signature.inputs), ("output", signature.outputs))
    rows = [(side, spec.name, spec.dtype, "×".join(map(str, spec.shape))) for side, specs in sides for spec in specs]
    texts = {
        "classes": signature.classes,
        "symbols": tuple(map(repr, signature.symbols)),
        "features": signature.features,
    }
    told = [(what, shortened(names), "", str(len(names))) for what, names in texts.items() if names]
    reads = [(f"reads {spec.kind}", spec.describe(), "", "") for spec in signature.preprocessing]
    return [*rows, *told, *reads]


def dump(value: Any) -> str:
    """Indented JSON for people to read."""
    return json.dumps(value, indent=2, default=str)
