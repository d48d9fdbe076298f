"""The pack stage: writes a graph as a TorchServe archive that contains its own copy of the runtime half."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....core.artifact import Artifact, load_artifact, new_artifact
from ....core.backends.trt import open_plan
from ....core.backends.trt_plan import read_plan
from ....core.console import SILENT, Console
from ....core.context import Context, Place
from ....core.facts.pack_facts import PackFacts
from ....core.options.serving_options import PackOptions
from ....core.session import Session, SessionOptions, open_session
from ....core.signature import Signature
from ...bundles.bundle import Parts, try_here, write_bundle
from ...bundles.model_parts import read_model
from ...bundles.policy import Policy as Policy
from ...bundles.policy import settings_of
from ...bundles.raw_inputs import with_raw_inputs
from ...bundles.runtime_half import ROOT, carried
from ...bundles.stage import agreed_options, bundle_facts, signing_key
from ...engine import SIGNATURE, Engine
from ...integrity import SUMS, format_sums
from ...requests.hook import HOOK
from ...settings import ENGINE, MODEL, PLAN, Settings
from ...signing.private_key import PrivateKey
from ...signing.trust import Signer, Trust
from ..config import model_config
from .contents import CONFIG, MANIFEST, check_contents, manifest, needs_torch, stand_in
from .mar import STAND_IN, read_member, read_signature_of, verify_mar, write_mar


def pack(options: PackOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that writes the TorchServe archive of a graph.

    Raises:
        RetortError: as :func:`write_archive`.
    """
    return write_archive(options, parent, place, console=context.console, context=context)


def write_archive(
    options: PackOptions,
    artifact: Artifact,
    place: Place,
    policy: Policy | None = None,
    console: Console = SILENT,
    context: Context | None = None,
) -> Artifact:
    """Write ``model.mar`` and the bundle it was made from.

    The archive is opened once before it is kept, and must reproduce its golden outputs on this machine.

    Args:
        context: of a recipe; the archive carries the tokenizer of its data if the model was trained with it.

    Raises:
        UserError: the options contradict the bundle.
        ArtifactError: the artifact is neither a graph nor a bundle, or its golden outputs do not belong to it.
        StorageError: the disk is full or not writable.
    """
    base = context.base if context is not None else Path()
    options, key = agreed_options(options, artifact), signing_key(options, base, console)
    parts = with_raw_inputs(read_model(artifact, options, base), options, context, console)
    with new_artifact(place, "archive", "pack", options=options) as draft:
        folder = draft.folder
        wanted = settings_of(options, policy or Policy(), parts)
        settings = write_bundle(folder / "bundle", parts, wanted)
        engine = try_here(folder / "bundle", parts, console)
        load_s = None if engine is None else engine.load_s
        members = mar_members(folder / "bundle", settings, options, load_s, parts.handler)
        write_mar(folder / "model.mar", members, None if key is None else key.sign)
        draft.facts = _facts(folder, parts, engine, key)
        if not parts.signature.batch_invariant:
            console.warn("rows of this model influence each other, so requests are run one by one and never as a batch")
    return load_artifact(place.directory)


def mar_members(
    bundle: Path, settings: Settings, options: PackOptions, load_s: float | None, handler: str = "tensor"
) -> dict[str, bytes | Path]:
    """All files of the archive except its checksums, by name.

    Args:
        handler: name of the handler file, without its ending.
    """
    handler = f"{handler}.py"
    files = [path for path in bundle.rglob("*") if path.is_file() and path.name != SUMS]
    members: dict[str, bytes | Path] = {path.relative_to(bundle).as_posix(): path for path in files}
    members |= carried("retort")
    members[handler] = (ROOT / "handlers/tensor.py").read_bytes()
    hook = bundle / HOOK
    if not (hook.is_file() and needs_torch(hook.read_bytes())):
        members[STAND_IN] = stand_in()
    members[MANIFEST] = manifest(settings, handler)
    members[CONFIG] = model_config(settings, options, load_s)
    return members


def _facts(folder: Path, parts: Parts, engine: Engine | None, key: PrivateKey | None) -> PackFacts:
    found = bundle_facts(folder, folder / "bundle", parts, engine, key)
    return PackFacts(**{**dict(found), "size_bytes": (folder / "model.mar").stat().st_size})


@dataclass(frozen=True)
class Mar:
    """A verified archive: its path, its name, its settings, and who signed it; None if nobody did."""

    path: Path
    name: str
    version: str
    settings: Settings
    sums: Mapping[str, str]
    signer: Signer | None = None


def open_model(mar: Mar, options: SessionOptions) -> Session:
    """A session of the model in an archive, without a server; files of weights are unpacked while it opens."""
    signature = Signature.from_json(read_member(mar.path, SIGNATURE))
    if mar.settings.engine:
        plan = read_plan(mar.path.parent / PLAN, lambda name: read_member(mar.path, f"{ENGINE}/{name}"))
        return open_plan(plan, options, signature)
    if not mar.settings.external:
        return open_session(read_member(mar.path, MODEL), options, signature)
    with tempfile.TemporaryDirectory(prefix="retort-") as folder, zipfile.ZipFile(mar.path) as archive:
        archive.extractall(folder, [MODEL, *mar.settings.external])
        return open_session(Path(folder) / MODEL, options, signature)


def open_mar(artifact: Artifact, trust: Trust | None = None, console: Console = SILENT) -> Mar:
    """Verify an archive before a server sees it (serve.md H6).

    Args:
        trust: the keys to trust; None takes those of the environment.

    Raises:
        ArtifactError: the archive is truncated, altered, not as Retort writes it, or not signed as it must be.
    """
    path, trust = artifact.main, Trust.chosen() if trust is None else trust
    sums = verify_mar(path)
    signer = trust.check(path.name, format_sums(sums), read_signature_of(path), console.warn)
    settings = Settings.from_json(read_member(path, "serving.json"))
    check_contents(path, sums, settings)
    return Mar(path, settings.name, settings.version, settings, sums, signer)
