"""The proof of an archive without a server: every byte is as it was packed, and the model gives its golden outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.errors import ArtifactError, VerificationError
from ...bundles.bundled import RUNTIME, open_bundle
from ...bundles.runtime_half import carried, carried_by_bundles
from ...engine import GOLDEN, golden_error, split_golden
from ...requests.wire import read_npz
from ...settings import TRUSTED
from ...signing.trust import Signer, Trust
from ...thread_budget import thread_budget
from ...worker_session import session_options
from .archive import Mar, open_model
from .mar import read_member


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        golden_error: largest error of the golden outputs on this machine, relative to their range.
        same_runtime: whether the code in the archive is that of this version of Retort.
        model: name of the model.
        files: number of files with a checksum.
        signer: who signed them; None if nobody did.
    """

    golden_error: float
    same_runtime: bool
    model: str
    version: str
    files: int
    signer: Signer | None


def prove(mar: Mar) -> Proof:
    """Run the model of an archive that was verified on its golden inputs.

    Raises:
        ArtifactError: the model cannot be opened.
        VerificationError: it gives other outputs.
    """
    inputs, expected = split_golden(read_npz(read_member(mar.path, GOLDEN), TRUSTED))
    if not expected:
        raise ArtifactError(f"{mar.path.name} has no golden outputs", "pack the model again")
    settings = mar.settings
    session = open_model(mar, session_options(replace(settings, threads=thread_budget(settings))))
    try:
        error = golden_error(session.run(inputs), expected)
    finally:
        session.close()
    if not error <= settings.golden_tolerance:
        raise VerificationError(
            f"the golden outputs of {mar.path.name} differ by {error:.3g}, "
            f"but only {settings.golden_tolerance:.3g} is allowed",
            "the runtime on this machine computes other values; export and pack the model again on this machine",
        )
    same = _are_of(mar.sums, carried("retort"))
    return Proof(error, same, mar.name, mar.version, len(mar.sums), mar.signer)


def prove_bundle(folder: Path, trust: Trust) -> Proof:
    """Verify a bundle, and run its model on its golden inputs; no code in it is run, but the user's own hook.

    Raises:
        RetortError: as :func:`retort.serve.bundles.bundled.open_bundle`.
    """
    engine = open_bundle(folder, trust)
    engine.close()
    same = _are_of(engine.sums, carried_by_bundles(RUNTIME))
    settings = engine.settings
    return Proof(engine.golden_error, same, settings.name, settings.version, len(engine.sums), engine.signer)


def _are_of(sums: Mapping[str, str], files: Mapping[str, bytes]) -> bool:
    return all(sums.get(name) == hashlib.sha256(content).hexdigest() for name, content in files.items())
