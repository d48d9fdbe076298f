"""The pack stage for other servers than TorchServe: a deployment, a bundle with what a server needs around it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, load_artifact, new_artifact
from ...core.context import Context, Place
from ...core.counts import listed
from ...core.errors import ArtifactError, UserError
from ...core.options.serving_options import PackOptions
from ...core.preprocessing.specs import SAMPLES
from ...core.signature import Signature
from ..bundles.model_parts import read_model
from ..bundles.raw_inputs import with_raw_inputs
from ..bundles.stage import agreed_options, bundle_facts, signing_key, warn_if_alone, write_whole_bundle
from ..integrity import SUMS
from ..settings import Settings
from . import bento, docker, kserve, ovms, ray_serve, triton
from .dashboard import DASHBOARD, dashboard
from .deployed import Commands, Deployed

DEPLOYMENT = "deployment.json"


@dataclass(frozen=True)
class _Target:
    """A target: where its bundle is, by the name of the model, and the function that writes everything else."""

    bundle_folder: Callable[[str], str]
    write: Callable[[Deployed], Commands]


TARGETS = {
    "triton": _Target(triton.bundle_folder, triton.write),
    "ray": _Target(ray_serve.bundle_folder, ray_serve.write),
    "bentoml": _Target(bento.bundle_folder, bento.write),
    "docker": _Target(docker.bundle_folder, docker.write),
    "kserve": _Target(kserve.bundle_folder, kserve.write),
    "ovms": _Target(ovms.bundle_folder, ovms.write),
}
_BARE = {"triton": "Triton", "ovms": "OpenVINO Model Server"}
"""Targets that compute with the model themselves, with metrics of their own, and take only arrays."""


def deploy(options: PackOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Write the deployment of a graph, or of a bundle, for the server that the options name.

    Raises:
        UserError: the options contradict the bundle, or the server cannot take this model.
        ArtifactError: the artifact is neither a graph nor a bundle, or its golden outputs do not belong to it.
        StorageError: the disk is full or not writable.
    """
    options, key = agreed_options(options, parent), signing_key(options, context.base, context.console)
    if options.provider not in ("cpu", "openvino"):
        raise UserError(
            f"--provider {options.provider} cannot be served by {options.target}, whose files here are for CPUs",
            "pack for torchserve, or make a bundle and serve it on a host with a GPU",
        )
    parts = with_raw_inputs(read_model(parent, options, context.base), options, context, context.console)
    if parts.plan is not None and options.target != "triton":
        raise UserError(
            f"a plan cannot be served by {options.target}, whose files here are for CPUs",
            "pack it for torchserve or triton, or make a bundle and serve it on a host with its GPU",
        )
    target = TARGETS[options.target]
    with new_artifact(place, "deployment", "pack", options=options) as draft:
        folder = draft.folder / target.bundle_folder(options.name)
        engine = write_whole_bundle(folder, parts, options, context.console, key)
        settings = Settings.from_json((folder / "serving.json").read_bytes())
        made = Deployed(draft.folder, folder, parts, settings, options)
        commands = target.write(made)
        made.write(DEPLOYMENT, _description(made, commands))
        if options.target not in _BARE:
            made.write(DASHBOARD, dashboard())
        draft.facts = bundle_facts(draft.folder, folder, parts, engine, key)
        warn_if_alone(parts, context.console)
        if options.target in _BARE and parts.signature.preprocessing:
            context.console.warn(why_arrays(_BARE[options.target], parts.signature))
        if options.target == "triton" and parts.signature.batch_invariant and not triton.combines(made):
            context.console.warn(triton.why_single(made))
    return load_artifact(place.directory)


def _description(made: Deployed, commands: Commands) -> str:
    value = {
        "target": made.options.target,
        "name": made.settings.name,
        "version": made.settings.version,
        "bundle": made.bundle.relative_to(made.folder).as_posix(),
        "workers": made.settings.workers,
        "p99_ms": made.options.p99_ms,
        "timeout_s": made.options.response_timeout_s,
        "commands": dict(commands),
    }
    return json.dumps(value, indent=1) + "\n"


def why_arrays(server: str, signature: Signature) -> str:
    """What clients of a model that reads raw samples must send to a server that does not, in one sentence."""
    raw, wanted = listed([SAMPLES[spec.kind] for spec in signature.preprocessing]), signature.describe_inputs()
    made = f"{server} takes only arrays, so clients must make them of {raw} ({wanted})"
    return f"{made}; other targets read {raw} themselves"


def bundle_of(artifact: Artifact) -> Path:
    """The bundle in a deployment, or the bundle itself.

    Raises:
        ArtifactError: the deployment does not say where its bundle is.
    """
    if artifact.kind == "bundle":
        return artifact.path
    where = artifact.path / str(_told(artifact).get("bundle"))
    if not (where / SUMS).is_file():
        raise ArtifactError(f"{artifact.main} names no bundle", "pack the model again")
    return where


def _told(artifact: Artifact) -> dict[str, Any]:
    try:
        found = json.loads(artifact.main.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{artifact.main} cannot be read: {error}", "pack the model again") from error
    return found if isinstance(found, dict) else {}


def commands_of(artifact: Artifact) -> dict[str, str]:
    """What to run in the folder of a deployment, by what it does."""
    where = shlex.quote(str(artifact.path))
    return {what: f"cd {where} && {command}" for what, command in dict(_told(artifact).get("commands", {})).items()}
