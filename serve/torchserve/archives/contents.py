"""What an archive may contain besides whole bytes: the files that `retort pack` writes, and settings that agree."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from ....core.backends.trt_plan import read_plan
from ....core.counts import counted
from ....core.errors import ArtifactError
from ....core.formats.onnx_side_files import is_side_file, side_files
from ....core.preprocessing.fitting import has_tokenizer
from ....core.signature import Signature
from ...bundles.runtime_half import ROOT
from ...engine import GOLDEN, SETTINGS, SIGNATURE, TOKENIZER
from ...requests.hook import HOOK
from ...settings import ENGINE, MODEL, PLAN, Settings
from ..config import device_type
from .mar import STAND_IN, read_member

MANIFEST, CONFIG = "MAR-INF/MANIFEST.json", "model-config.yaml"
HANDLERS = ("tensor.py", "image.py", "text.py", "audio.py")
_REMEDY = "the archive was not written by this `retort pack`; pack the model again"
_NAME, _VERSION = re.compile(r"[A-Za-z0-9_-]+"), re.compile(r"[A-Za-z0-9_.-]+")
_LINE = re.compile(r'(\w+): ([1-9]\d{0,8}|"[cg]pu")')


def manifest(settings: Settings, handler: str) -> bytes:
    """``MANIFEST.json``, from which TorchServe takes the handler and the model's name."""
    model = {
        "modelName": settings.name,
        "modelVersion": settings.version,
        "serializedFile": settings.model,
        "handler": handler,
        "configFile": CONFIG,
    }
    facts = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    return (json.dumps(facts, indent=2) + "\n").encode()


def stand_in() -> bytes:
    """The content of :data:`STAND_IN`."""
    return (ROOT / "serve/torchserve/archives/without_torch.py").read_bytes()


def needs_torch(source: bytes) -> bool:
    """Whether code imports PyTorch, so that a worker must not have :data:`STAND_IN` in its place."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return "torch" in names


def _code(source: bytes) -> str | None:
    """What Python code does, without its words, which may differ between versions; None if it is no Python code."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def check_contents(path: Path, names: Collection[str], settings: Settings) -> None:
    """Reject an archive that is whole but would make TorchServe do something else than ``serving.json`` says.

    Raises:
        ArtifactError: a file is missing or does not belong there, the manifest or the configuration contradicts the
            settings, or the model reads weights from a file outside the archive.
    """
    if not (_NAME.fullmatch(settings.name) and _VERSION.fullmatch(settings.version)):
        raise _refused(path, f"has the name '{settings.name[:40]}' or a version that cannot stand in an address")
    handlers = [name for name in HANDLERS if name in names]
    wanted = {MANIFEST, CONFIG, *settings.model_files, SIGNATURE, GOLDEN, SETTINGS, *settings.external, *handlers}
    if SIGNATURE in names and has_tokenizer(Signature.from_json(read_member(path, SIGNATURE))):
        wanted.add(TOKENIZER)
    if settings.hook:
        wanted.add(HOOK)
    if missing := sorted(wanted.difference(names)) or [HANDLERS[0]][len(handlers) :]:
        raise _refused(path, f"has no {missing[0]}")
    if odd := sorted(name for name in names if name not in {*wanted, STAND_IN} and not _is_runtime(name)):
        kind = "is Python code that is not Retort's" if odd[0].endswith(".py") else "is no file of a packed model"
        raise _refused(path, f"contains '{odd[0][:80]}', which {kind}")
    if STAND_IN in names and _code(read_member(path, STAND_IN)) != _code(stand_in()):
        raise _refused(path, f"contains another '{STAND_IN}' than this version of Retort writes")
    if read_member(path, MANIFEST) != manifest(settings, handlers[0]):
        raise _refused(path, f"has a {MANIFEST} that contradicts {SETTINGS}")
    if fault := _contradiction(read_member(path, CONFIG).decode("utf-8", "replace"), settings):
        raise _refused(path, f"has a {CONFIG} that {fault}")
    _check_side_files(path, settings)


def _refused(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path.name} {what}", _REMEDY)


def _is_runtime(name: str) -> bool:
    return name.startswith("retort/") and PurePosixPath(name).suffix == ".py"


def _contradiction(text: str, settings: Settings) -> str | None:
    """What the configuration says that Retort does not write, or that ``serving.json`` says otherwise."""
    fixed = {
        "minWorkers": str(settings.workers),
        "maxWorkers": str(settings.workers),
        "batchSize": str(settings.batch_size),
        "deviceType": device_type(settings),
    }
    wanted = {*fixed, "maxBatchDelay", "responseTimeout", "startupTimeout"}
    seen: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key not in wanted:
            return f"sets '{key[:40]}', which Retort does not use"
        if key in seen or not _LINE.fullmatch(line):
            return f"cannot be read at '{line[:40]}'"
        if key in fixed and value.strip() != fixed[key]:
            return f"says {key} {value.strip()[:40]}, but {SETTINGS} says {fixed[key]}"
        seen.add(key)
    return f"has no {min(wanted - seen)}" if wanted - seen else None


def batch_delay_ms(path: Path) -> int:
    """Longest time that a worker waits for a batch to fill, from the configuration of a checked archive."""
    return _number(path, "maxBatchDelay")


def response_timeout_s(path: Path) -> int:
    """Seconds without an answer after which a worker is restarted, from the configuration of a checked archive."""
    return _number(path, "responseTimeout")


def _number(path: Path, key: str) -> int:
    lines = read_member(path, CONFIG).decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith(f"{key}:"))


def _check_plan(path: Path, settings: Settings) -> None:
    """Refuse a plan that its manifest, the signature or the settings contradict (serve.md H7)."""
    if settings.external:  # a plan has its weights in itself
        raise _refused(path, f"contains '{settings.external[0][:80]}', which no plan reads weights from")
    try:
        plan = read_plan(path.parent / PLAN, lambda name: read_member(path, f"{ENGINE}/{name}"))
        plan.signed(Signature.from_json(read_member(path, SIGNATURE)))
    except ArtifactError as error:
        raise _refused(path, f"cannot be served: {error.message}") from error
    if settings.engine != plan.requirement:
        raise _refused(path, f"has a plan for {plan.requirement}, but {SETTINGS} says {settings.engine[:40]}")
    if plan.largest_batch is not None and settings.limits.rows > plan.largest_batch:
        told = f"takes up to {counted(plan.largest_batch, 'row')}, but {SETTINGS} allows {settings.limits.rows}"
        raise _refused(path, f"has a plan that {told}")


def _check_side_files(path: Path, settings: Settings) -> None:
    if settings.engine:
        _check_plan(path, settings)
        return
    try:
        found = side_files(read_member(path, MODEL))
    except ArtifactError as error:
        raise _refused(path, f"cannot be served: {error.message}") from error
    if odd := sorted(found.difference(settings.external)):
        raise _refused(path, f"has a model that reads weights from '{odd[0][:80]}', which is no file of the archive")
    if odd := sorted(set(settings.external).difference(found)):
        raise _refused(path, f"contains '{odd[0][:80]}', which the model does not read weights from")
    if odd := sorted(name for name in found if not is_side_file(name)):
        raise _refused(path, f"has a model that reads weights from '{odd[0][:80]}', which is no plain file of weights")
