"""The asynchronous entry: batches without waiting, refusals at once, and no influence of one request on another."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_models import graph

from retort.core.context import Context, Place
from retort.core.options.serving_options import BundleOptions
from retort.serve.bundles.async_engine import AsyncEngine
from retort.serve.bundles.stage import bundle
from retort.serve.requests.replies import Answer
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import NPY, write_npy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small model."""
    place = tmp_path_factory.mktemp("async")
    context = Context(None)  # type: ignore[arg-type]  # it reads no data
    return bundle(BundleOptions(name="vector"), graph("vector", place), Place(place / "bundle"), context).path


class Held(AsyncEngine):
    """An engine whose runs are counted, and wait until they may go on."""

    def hold(self) -> None:
        """Let every run wait for ``gate``."""
        self.gate, self.sizes = threading.Event(), list[int]()
        answer = self.engine.answer

        def _answer(requests: Sequence[Incoming]) -> list[Answer]:
            self.sizes.append(len(requests))
            assert self.gate.wait(20)
            return answer(requests)

        self.engine.answer = _answer  # type: ignore[method-assign]


def _held(folder: Path, goal_ms: float = 1e6) -> Held:
    model = Held(AsyncEngine.open(folder).engine, goal_ms)
    model.hold()
    return model


def _request(*rows: Any) -> Incoming:
    return Incoming({"body": json.dumps({"x": rows}).encode()})


def _total(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)["total"]


def test_what_arrives_meanwhile_is_the_next_batch(folder: Path) -> None:
    """The first request runs alone at once; all that arrive while it runs share the next batches."""

    async def _ask() -> list[Any]:
        first = asyncio.create_task(model.answer(_request([1, 2])))
        while not model.sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(model.answer(_request([i, 0]))) for i in range(10)]
        await asyncio.sleep(0.01)
        model.gate.set()
        return [_total(answer) for answer in await asyncio.gather(first, *others)]

    model = _held(folder)
    assert asyncio.run(_ask()) == [[3.0], *([float(i)] for i in range(10))]
    assert model.sizes == [1, 8, 2]
    model.close()


def test_bad_requests_leave_their_neighbours_alone(folder: Path) -> None:
    """Every second request of a crowd is bad: each gets its own 400, and the others their answers, bit for bit."""

    async def _ask() -> list[Answer]:
        return await asyncio.gather(*(model.answer(request) for request in requests))

    model = AsyncEngine.open(folder)
    rows = np.random.default_rng(3).normal(size=(40, 1, 2)).astype(np.float32)
    wanted = [model.engine.session.run({"x": row})["total"] for row in rows]
    types = {"body": NPY}
    requests = [
        Incoming({"body": write_npy(row) if index % 2 else b'{"x": [[1]]}'}, types if index % 2 else {})
        for index, row in enumerate(rows)
    ]
    answers = asyncio.run(_ask())
    assert [answer.status for answer in answers] == [200 if index % 2 else 400 for index in range(40)]
    for index in range(1, 40, 2):
        assert answers[index].body == write_npy(wanted[index])
    model.close()


def test_too_many_are_refused_at_once(folder: Path) -> None:
    """Requests that would wait longer than the goal get 503 with Retry-After; the accepted ones are answered."""

    async def _ask() -> list[Answer]:
        first = asyncio.create_task(model.answer(_request([1, 2])))
        while not model.sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(model.answer(_request([1, 2]))) for _ in range(12)]
        refused = [await task for task in others[8:]]
        assert {answer.status for answer in refused} == {503}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        model.gate.set()
        return await asyncio.gather(first, *others[:8])

    model = _held(folder, goal_ms=0.0)
    assert model.queue_length == 8
    assert {answer.status for answer in asyncio.run(_ask())} == {200}
    model.close()


def test_the_queue_follows_the_time_of_batches(folder: Path) -> None:
    """A slower model has a shorter queue."""
    model = AsyncEngine.open(folder, goal_ms=100)
    model.batch_ms = 10.0
    fast = model.queue_length
    model.batch_ms = 40.0
    assert (fast, model.queue_length) == (72, 8)
    model.close()


def test_who_hangs_up_leaves_the_queue(folder: Path) -> None:
    """A cancelled request is not run, and the others are."""

    async def _ask() -> Answer:
        first = asyncio.create_task(model.answer(_request([1, 2])))
        while not model.sizes:
            await asyncio.sleep(0.001)
        gone, stays = (asyncio.create_task(model.answer(_request([1, 2]))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        await first
        assert gone.cancelled()
        return await stays

    model = _held(folder)
    assert _total(asyncio.run(_ask())) == [3.0]
    assert model.sizes == [1, 1]
    model.close()


def test_a_failure_of_the_engine_is_an_answer(folder: Path) -> None:
    """Whatever happens in a batch, everybody is answered: here with 500 and no internals."""

    async def _ask() -> Answer:
        return await asyncio.wait_for(model.answer(_request([1, 2])), 20)

    def _fail(requests: Sequence[Incoming]) -> list[Answer]:
        raise KeyError("secret")

    model = AsyncEngine.open(folder)
    model.engine.answer = _fail  # type: ignore[method-assign]
    answer = asyncio.run(_ask())
    assert answer.status == 500
    assert b"secret" not in answer.body
    model.close()
