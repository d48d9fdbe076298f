"""The bundle stage: a graph as a folder with its own runtime, from which every other form for servers is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.console import Console
from ...core.context import Context, Place
from ...core.errors import UserError
from ...core.facts.pack_facts import BundleFacts, PackTiming
from ...core.options.serving_options import BundleOptions
from ...core.session import backend_of
from ..engine import SETTINGS, Engine
from ..integrity import SUMS, SUMS_SIGNATURE, format_sums
from ..settings import Settings
from ..signing.private_key import PrivateKey, read_private_key
from ..signing.trust import Trust
from .bundle import Parts, sums_of, try_here, write_bundle
from .bundled import BUNDLE, FORMAT, RUNTIME, check_bundle
from .model_parts import read_model
from .policy import Policy, settings_of
from .raw_inputs import with_raw_inputs
from .runtime_half import carried_by_bundles

Chosen = TypeVar("Chosen", bound=BundleOptions)


def needs_of(settings: Settings) -> tuple[str, ...]:
    """What a host that serves a bundle must have, as pip reads it."""
    if settings.engine:
        return "numpy>=1.26", settings.engine
    runtime = "openvino>=2026.0" if backend_of(settings.providers) == "openvino" else "onnxruntime>=1.24"
    return "numpy>=1.26", runtime.replace("onnxruntime", "onnxruntime-gpu") if settings.needs_gpu else runtime


def bundle(options: BundleOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that writes the bundle of a graph.

    The bundle is opened once before it is kept, and must reproduce its golden outputs on this machine.

    Raises:
        ArtifactError: the artifact is not a graph, or its golden outputs do not belong to it.
        StorageError: the disk is full or not writable.
    """
    raise_if_not(parent, "graph", "engine")
    key = signing_key(options, context.base, context.console)
    parts = with_raw_inputs(read_model(parent, options, context.base), options, context, context.console)
    with new_artifact(place, "bundle", "bundle", options=options) as draft:
        engine = write_whole_bundle(draft.folder, parts, options, context.console, key)
        draft.facts = bundle_facts(draft.folder, draft.folder, parts, engine, key)
        warn_if_alone(parts, context.console)
    return load_artifact(place.directory)


def signing_key(options: BundleOptions, base: Path, console: Console) -> PrivateKey | None:
    """The key that signs; None without.

    Args:
        base: the folder at which a relative path begins.

    Raises:
        UserError: there is no such file, or it is no private key.
    """
    return None if options.sign is None else read_private_key(base / options.sign, console)


def agreed_options(options: Chosen, parent: Artifact) -> Chosen:
    """The options for packing a bundle: what its own options say, but for the key, which signs each result anew,
    and for golden samples, which the bundle brings.

    Those of any other artifact are the given ones.

    Raises:
        UserError: an option has another value than in the bundle, and not its default.
    """
    if parent.kind != "bundle":
        return options
    check_bundle(parent.path)
    stored = BundleOptions.model_validate(parent.manifest.options)
    shared = {name: field for name, field in BundleOptions.model_fields.items() if name not in ("golden", "sign")}
    for name, field in shared.items():
        given, kept = getattr(options, name), getattr(stored, name)
        if given not in (kept, field.default):
            message = f"{name} is {given!r}, but the bundle {parent.path} has {kept!r}"
            raise UserError(message, "leave it out, or make another bundle with `retort bundle`")
    return options.model_copy(update={name: getattr(stored, name) for name in shared})


def write_whole_bundle(
    folder: Path, parts: Parts, options: BundleOptions, console: Console, key: PrivateKey | None
) -> Engine | None:
    """Write a bundle with its runtime, and open it once.

    Returns:
        The engine, which is closed: what was measured when it was opened; None for a plan that cannot run here.

    Raises:
        RetortError: the bundle cannot be served on this machine.
    """
    settings = write_bundle(folder, parts, settings_of(options, Policy(), parts))
    for name, content in carried_by_bundles(RUNTIME).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / BUNDLE).write_bytes(_description(parts, settings))
    content = format_sums(sums_of(folder))
    (folder / SUMS).write_bytes(content)
    if key is not None:
        (folder / SUMS_SIGNATURE).write_bytes(key.sign(content))
    check_bundle(folder, Trust() if key is None else Trust((key.public,), "require"))
    return try_here(folder, parts, console)


def _description(parts: Parts, settings: Settings) -> bytes:
    signature = parts.signature
    value = {
        "format": FORMAT,
        "name": settings.name,
        "version": settings.version,
        "runtime": RUNTIME,
        "needs": list(needs_of(settings)),
        "inputs": [spec.describe() for spec in signature.inputs],
        "outputs": [spec.describe() for spec in signature.outputs],
    }
    return (json.dumps(value, indent=1) + "\n").encode()


def bundle_facts(whole: Path, folder: Path, parts: Parts, engine: Engine | None, key: PrivateKey | None) -> BundleFacts:
    """The facts of a result in ``whole`` whose bundle is in ``folder``.

    Args:
        engine: what was measured; None for a plan that could not be tried.
    """
    settings = Settings.from_json((folder / SETTINGS).read_bytes())
    return BundleFacts(
        size_bytes=sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()),
        model_bytes=(folder / settings.model).stat().st_size,
        golden_error=None if engine is None else engine.golden_error,
        timing=PackTiming(load_s=None if engine is None else round(engine.load_s, 3)),
        exact_batch_sizes=() if engine is None else tuple(sorted(engine.executor.plan.sizes)),
        batch_invariant=parts.signature.batch_invariant,
        key_id=None if key is None else key.public.key_id,
    )


def warn_if_alone(parts: Parts, console: Console) -> None:
    """Warn if requests of the model are never combined."""
    if not parts.signature.batch_invariant:
        console.warn("rows of this model influence each other, so requests are run one by one and never as a batch")
