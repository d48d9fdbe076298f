"""A version of a model that a server has, and the golden requests that it must answer before it counts as served."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from ...core.errors import ServingError
from ...core.signature import Signature
from ...core.tensors import Feeds
from ..client import Client
from ..engine import GOLDEN, SIGNATURE, golden_error, smallest_golden, split_golden
from ..requests.wire import read_npz
from ..settings import TRUSTED, Limits
from ..signing.trust import Signer
from .archives.archive import Mar
from .archives.mar import read_member
from .deployment import Deployment


@dataclass(frozen=True)
class Served:
    """A version of a model that a server has.

    Attributes:
        default: whether it answers requests that name no version.
        workers: number of worker processes.
        queue_length: number of requests that may wait.
        signature: inputs and outputs of the model.
        sample: golden inputs of one sample, which the server has answered.
        limits: what one request may contain.
        signer: who signed its archive; None if nobody did.
    """

    name: str
    version: str
    default: bool
    workers: int
    queue_length: int
    signature: Signature
    sample: Feeds
    limits: Limits
    signer: Signer | None = None


def answering(deployed: Sequence[Deployment], url: str, timeout_s: float) -> tuple[Served, ...]:
    """The models of a server, after each version has answered its golden request.

    Raises:
        ServingError: as :func:`ask_golden`.
    """
    names: set[str] = set()
    found = []
    for one in deployed:
        mar = one.mar
        signature, sample = ask_golden(mar, url, timeout_s)
        default, limits = mar.name not in names, mar.settings.limits
        names.add(mar.name)
        facts = (one.workers, one.queue_length, signature, sample, limits, mar.signer)
        found.append(Served(mar.name, mar.version, default, *facts))
    return tuple(found)


def ask_golden(mar: Mar, url: str, timeout_s: float) -> tuple[Signature, Feeds]:
    """Ask a server for the golden outputs of an archive, by its version; its signature and the inputs that were sent.

    Raises:
        ServingError: the server answers something else, or does not answer.
    """
    signature = Signature.from_json(read_member(mar.path, SIGNATURE))
    golden = split_golden(read_npz(read_member(mar.path, GOLDEN), TRUSTED))
    inputs, expected = smallest_golden(signature, golden)
    with closing(Client(url, mar.name, mar.version, timeout_s=timeout_s)) as client:
        error = golden_error(client.predict(inputs), expected)
    if not error <= mar.settings.golden_tolerance:
        message = (
            f"the served golden outputs differ by {error:.3g}, but only {mar.settings.golden_tolerance:.3g} is allowed"
        )
        raise ServingError(message, "pack the model again on this machine")
    return signature, inputs
