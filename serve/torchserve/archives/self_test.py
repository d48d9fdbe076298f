"""The proof of an archive without a server: every byte is as it was packed, and the model gives its golden outputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from ....core.errors import ArtifactError, VerificationError
from ...bundles.runtime_half import carried
from ...engine import GOLDEN, golden_error, split_golden
from ...requests.wire import read_npz
from ...settings import TRUSTED
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
    """

    golden_error: float
    same_runtime: bool


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
    return Proof(
        error, all(mar.sums.get(name) == hashlib.sha256(own).hexdigest() for name, own in carried("retort").items())
    )
