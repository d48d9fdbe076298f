"""What a load asks: model files in any runtime, and endpoints, each as an endless series of prepared queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from ...core.artifact import Artifact, load_artifact
from ...core.counts import counted, listed
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Split, Splits
from ...core.errors import UserError
from ...core.options.option_types import Provider
from ...core.session import PROVIDERS, Session, SessionOptions, naming_model, open_session
from ...core.tensors import Feeds
from ...serve.client import Client, decoded, encoded
from ..compare_models import by_name
from ..sessions import runtime_name
from ..timing.candidates import repeat_rows
from .load_result import CandidateKind
from .query_loops import Query
from .stage_split import StageTimes, split_of_request, split_of_session

ENDPOINTS = ("http://", "https://", "unix:")
KINDS_RUN: dict[str, CandidateKind] = {"program": "program", "graph": "graph", "engine": "engine"}
"""The kinds of artifacts that a session runs."""


@dataclass(frozen=True)
class OpenedCandidate:
    """A candidate that is ready for queries.

    Attributes:
        queries: one after another, without an end.
        per_query: samples in one query.
        split: runs the query of a number apart from the timed ones, and gives the time of each stage.
        close: frees what was opened.
    """

    queries: Iterator[Query]
    per_query: int
    split: Callable[[int], StageTimes]
    close: Callable[[], None]


@dataclass(frozen=True)
class LoadCandidate:
    """A candidate as it was given.

    Attributes:
        name: short and different from those of the others.
        where: the path of the file, or the address.
        runtime: what runs it, in words.
        sha256: hash of the file; empty for an endpoint.
        open: opens it with a number of threads, for queries of so many samples.
    """

    name: str
    where: str
    kind: CandidateKind
    runtime: str
    open: Callable[[int, int], OpenedCandidate]
    sha256: str = ""
    size_bytes: int = 0

    @property
    def endpoint(self) -> bool:
        """Whether it is the address of a server."""
        return self.kind == "endpoint"


def is_endpoint(text: str) -> bool:
    """Whether an argument is an address and not a path."""
    return text.startswith(ENDPOINTS)


def load_candidates(
    given: Sequence[str], splits: Splits, provider: Provider, samples: int, timeout_s: float
) -> list[LoadCandidate]:
    """The candidates of a command line.

    Args:
        given: paths, also with ``@`` and a provider, and addresses of models on a server.
        provider: for ONNX files that name none.
        samples: number of different samples that the queries take in turn.
        timeout_s: for a query to an endpoint.

    Raises:
        UserError: a candidate was given twice, or cannot be run.
        MissingFileError: there is no such file.
    """
    files = [split_provider(text, provider) for text in given if not is_endpoint(text)]
    made = named_models(files)
    found = [
        _of_model(name, artifact, where, splits, samples)
        for (name, artifact), where in zip(made.items(), [where for _, where in files], strict=True)
    ]
    addresses = [text for text in given if is_endpoint(text)]
    if len(set(addresses)) < len(addresses):
        raise UserError("the same endpoint was given twice", "give each address once")
    found += [_of_endpoint(url, splits, samples, timeout_s, addresses) for url in addresses]
    order = [*(f"{path}@{where}" for path, where in files), *addresses]
    wanted = [text if is_endpoint(text) else "@".join(map(str, split_provider(text, provider))) for text in given]
    return [found[order.index(text)] for text in wanted]


def split_provider(text: str, provider: Provider) -> tuple[Path, Provider]:
    """The path and the provider of ``model.onnx@openvino``.

    Raises:
        UserError: there is no such provider.
    """
    path, mark, named = text.rpartition("@")
    if not mark or Path(text).exists() or "/" in named or "." in named:
        return Path(text), provider
    known: dict[str, Provider] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "tensorrt", "openvino": "openvino"}
    if named not in known:
        raise UserError(f"there is no provider '{named}' for {path}", f"write {path}@{listed(PROVIDERS, 'or')}")
    return Path(path), known[named]


def named_models(files: Sequence[tuple[Path, Provider]]) -> dict[str, Artifact]:
    """Models by name; one file on several providers has the provider in its name.

    Raises:
        UserError: a file was given twice for one provider, or is of a kind that cannot be run.
    """
    if len(set(files)) < len(files):
        raise UserError("the same model was given twice", "give each model once per provider")
    paths = list(dict.fromkeys(path for path, _ in files))
    loaded = {path: load_artifact(path) for path in paths}
    for path, artifact in loaded.items():
        if artifact.kind not in KINDS_RUN:
            raise UserError(
                f"{path} is of the kind {artifact.kind}, which cannot be run here",
                "give an .onnx, .pt2 or .plan file, or the address of a server",
            )
    names = dict(zip(paths, by_name(list(loaded.values())), strict=True)) if paths else {}
    several = {path for path in paths if sum(path == other for other, _ in files) > 1}
    return {f"{names[path]}@{where}" if path in several else names[path]: loaded[path] for path, where in files}


def _of_model(name: str, artifact: Artifact, provider: Provider, splits: Splits, samples: int) -> LoadCandidate:
    entry = artifact.manifest.files[artifact.main.name]

    def opened(threads: int, rows: int) -> OpenedCandidate:
        session = open_session(artifact.main, SessionOptions(threads=threads, providers=PROVIDERS[provider]))
        with naming_model(name):
            return of_session(session, fit_to(splits, session.signature).test, rows, samples)

    return LoadCandidate(
        name, str(artifact.main), KINDS_RUN[artifact.kind], runtime_name(artifact.main, provider), opened, entry.sha256,
        entry.size_bytes,
    )  # fmt: skip


def of_session(session: Session, split: Split, rows: int, samples: int) -> OpenedCandidate:
    """A session as a candidate; a model for another batch size takes a query in several calls.

    Args:
        rows: samples in one query.
        samples: number of different samples that the queries take in turn.
    """
    batch = session.signature.fixed_batch or rows
    run = getattr(session, "run_unchecked", session.run)

    def parts(number: int) -> list[Feeds]:
        chosen = _chosen(number, rows, split, samples)
        cut = [chosen[start : start + batch] for start in range(0, rows, batch)]
        return [repeat_rows(split.read(part)[0], session, batch) for part in cut]

    queries: list[Query] = []
    for number in range(_different(rows, split, samples)):
        prepared = parts(number)
        queries.append(partial(run, prepared[0]) if len(prepared) == 1 else partial(_each, run, prepared))
    return OpenedCandidate(cycle(queries), rows, partial(split_of_session, session, parts), session.close)


def _each(run: Callable[[Feeds], object], prepared: Sequence[Feeds]) -> None:
    for feeds in prepared:
        run(feeds)


def _of_endpoint(url: str, splits: Splits, samples: int, timeout_s: float, others: Sequence[str]) -> LoadCandidate:
    short = Client(url).address.name or "model"
    alone = sum((Client(other).address.name or "model") == short for other in others) == 1

    def opened(threads: int, rows: int) -> OpenedCandidate:
        client = Client(url, timeout_s=timeout_s)

        def feeds(number: int) -> Feeds:
            return splits.test.read(_chosen(number, rows, splits.test, samples))[0]

        def asked(body: bytes, headers: dict[str, str]) -> None:
            decode(*client.request("POST", "", body, headers))

        def decode(status: int, headers: dict[str, str], body: bytes) -> None:
            decoded(status, headers, body, url)

        made = [encoded(feeds(number)) for number in range(_different(rows, splits.test, samples))]
        queries = cycle([partial(asked, body, headers) for body, headers in made])
        return OpenedCandidate(queries, rows, partial(split_of_request, client, feeds), client.close)

    return LoadCandidate(f"endpoint {short if alone else url}", url, "endpoint", "a server", opened)


def _chosen(number: int, rows: int, split: Split, samples: int) -> list[int]:
    """The samples of a query; after the last one, the first come again."""
    different = min(samples, len(split))
    return [int(index) for index in np.arange(number * rows, (number + 1) * rows) % different]


def _different(rows: int, split: Split, samples: int) -> int:
    """Number of different queries."""
    if not len(split):
        raise UserError("the data have no test samples", "give data with at least one sample")
    return max(1, min(samples, len(split)) // rows)


def described(candidates: Sequence[LoadCandidate]) -> str:
    """The title of a measurement."""
    return f"{counted(candidates, 'candidate')}: {listed([one.name for one in candidates])}"
