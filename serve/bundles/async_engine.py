"""An engine for asyncio servers: what arrives while the model runs forms the next batch, and too much is refused.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from ..engine import Engine
from ..explanations import wants_explanation
from ..requests.json_text import dump
from ..requests.replies import Answer, refuse
from ..requests.request import Incoming
from .bundled import open_bundle

GOAL_MS = 500.0
_SHARE = 0.2
"""Weight of the last batch in the moving average of the times of batches."""
_Waiting: TypeAlias = "tuple[Incoming, asyncio.Future[Answer]]"


class AsyncEngine:
    """A model that answers requests of one event loop; the model runs in a thread of its own.

    A request never waits for others to arrive: an idle model runs it at once, and what arrives meanwhile is the next
    batch. As in :meth:`Engine.answer`, no request of a batch has an influence on another.

    Args:
        engine: the opened model; it is closed with this object.
        goal_ms: time in milliseconds within which an accepted request should be answered. A request that would have to
            wait longer, as the last batches show, is refused at once with 503.
    """

    def __init__(self, engine: Engine, goal_ms: float = GOAL_MS) -> None:
        self.engine = engine
        self.goal_ms = goal_ms
        times = engine.executor.plan.times_ms
        self.batch_ms = times[max(times)] if times else 1.0
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "retort-model")
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def open(folder: str | Path, goal_ms: float = GOAL_MS) -> AsyncEngine:
        """Verify a bundle and open its model.

        Raises:
            RetortError: as :func:`retort.serve.bundles.bundled.open_bundle`.
        """
        return AsyncEngine(open_bundle(folder), goal_ms)

    @property
    def queue_length(self) -> int:
        """Number of requests that may wait: as many as can be answered within the goal behind a running batch."""
        size = self.engine.settings.batch_size
        return size * max(1, math.floor(self.goal_ms / max(self.batch_ms, 1e-3)) - 1)

    async def answer(self, incoming: Incoming) -> Answer:
        """The answer to one request: 503 with ``Retry-After`` if too many wait. It never raises for a bad request.

        A caller that is cancelled, because its client hung up, leaves the queue.
        """
        if len(self._waiting) >= self.queue_length:
            return self._busy(incoming)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((incoming, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())
        return await future

    async def health(self) -> Answer:
        """Run the golden inputs between two batches: 200, or 503 if they are not reproduced."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.engine.health)

    def _busy(self, incoming: Incoming) -> Answer:
        wait_s = math.ceil(self.batch_ms * len(self._waiting) / max(self.engine.settings.batch_size, 1) / 1000)
        value = {"code": "Busy", "status": 503, "message": "too many requests wait", "remedy": "ask again later"}
        answer = Answer(
            503,
            dump({**value, "request_id": incoming.request_id}),
            headers={"Retry-After": str(max(1, wait_s))},
            operation="explain" if wants_explanation(incoming) else "predict",
        )
        self.engine.recorder.answered(answer)
        return answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # requests that arrived in the same turn of the loop meet in one batch
        while batch := self._next():
            begin = time.perf_counter()
            answers = await loop.run_in_executor(self._thread, self._run, [incoming for incoming, _ in batch])
            took_ms = 1000 * (time.perf_counter() - begin)
            # an explanation takes many runs, which say nothing about how long a prediction would wait
            alike = not any(wants_explanation(incoming) for incoming, _ in batch)
            if alike and len(batch) == self.engine.settings.batch_size:
                self.batch_ms += _SHARE * (took_ms - self.batch_ms)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.engine.settings.batch_size:
            item = self._waiting.popleft()
            if not item[1].done():
                batch.append(item)
        return batch

    def _run(self, requests: list[Incoming]) -> list[Answer]:
        begin = time.perf_counter()
        try:
            answers = self.engine.answer(requests)
        except Exception as error:  # the last guard: nobody may wait for ever
            answers = [refuse(error, incoming.request_id) for incoming in requests]
        self.engine.recorder.handled(time.perf_counter() - begin, answers)
        return answers

    def close(self) -> None:
        """Wait for the running batch, refuse what still waits, and free the model."""
        self._thread.shutdown(wait=True)
        while self._waiting:
            incoming, future = self._waiting.popleft()
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(self._busy(incoming))
        self.engine.close()
