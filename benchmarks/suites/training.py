"""The cost of the training loop: steps per second against a loop written by hand, and over numbers of processes.

``python -m retort.benchmarks.suites.training [--rounds 20] [--processes]``. Both loops train the same net on the same
batches in one process, in turn, in a new order in each round, in CPU time. The goal is a loop within 5 % of the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.context import Context
from ...core.data.references import resolve
from ...core.data.splits import ArraySplit, Splits
from ...core.options.stage_options import TrainOptions
from ...core.tensors import Array
from ...pipeline.repeated_training import RepeatedTraining
from ...pipeline.training_team import take_part, together
from ..machine import fingerprint

ROWS, BATCH, CLASSES, TOKENS, WORDS = 1280, 64, 10, 32, 500
GOAL = 1.05
RESAMPLES = 2000
MISSED = 1
INSIDE = "--inside"


@dataclass(frozen=True)
class Cost:
    """Times of both loops for one net.

    Attributes:
        net: its name.
        by_hand_ms: median CPU time of a step of the loop written by hand.
        retort_ms: the same of Retort's loop.
        ratio: ratio of the medians.
        low: lower end of its 95 % interval (bootstrap over the rounds).
        high: upper end.
    """

    net: str
    by_hand_ms: float
    retort_ms: float
    ratio: float
    low: float
    high: float


def data(net: str) -> tuple[Array, Array]:
    """Random images or tokens, and classes."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((ROWS, 1, 8, 8)).astype(np.float32)
    return images if net == "cnn" else rng.integers(0, WORDS, (ROWS, TOKENS)), rng.integers(0, CLASSES, ROWS)


def net_of(name: str) -> Any:
    """A ResNet for digits, or a Transformer encoder of two layers."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """Tokens to classes."""

        def __init__(self, width: int = 64) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
            self.words, self.layers = nn.Embedding(WORDS, width), nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(width, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Scores ``[N, C]`` of tokens ``[N, T]``."""
            scores: torch.Tensor = self.head(self.layers(self.words(x)).mean(1))
            return scores

    torch.manual_seed(0)
    return resolve("retort.examples.digits:teacher", Path.cwd())() if name == "cnn" else Encoder()


def train_by_hand(net: str, x: Array, y: Array, epochs: int) -> float:
    """The loop that one writes: AdamW without decay of vectors, cosine, and a look at the loss of each step.

    Returns:
        Its CPU time in seconds.
    """
    import torch
    from torch.nn import functional

    model = net_of(net).train()
    began = time.process_time()
    parts = [[value for value in model.parameters() if (value.dim() >= 2) == matrix] for matrix in (True, False)]
    groups = [{"params": parts[0], "weight_decay": 1e-4}, {"params": parts[1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(x) // BATCH)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()
    return time.process_time() - began


def repeated(net: str) -> RepeatedTraining:
    """The captured net."""
    import torch

    return RepeatedTraining(net_of(net), {"x": torch.from_numpy(data(net)[0][:2])})


def train_by_retort(training: RepeatedTraining, x: Array, y: Array, epochs: int) -> float:
    """The same training in Retort's loop, without validation as above; its CPU time in seconds."""
    none = ArraySplit({"x": x[:0]}, y[:0])
    given = Context(Splits(ArraySplit({"x": x}, y), none, none, none))
    return training.cpu_seconds(TrainOptions(epochs=epochs, batch_size=BATCH, device="cpu"), given)


def cost_of(net: str, rounds: int, epochs: int) -> Cost:
    """Both loops in turn, after one round that does not count."""
    import torch

    torch.set_num_threads(1)
    x, y = data(net)
    training = repeated(net)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(rounds + 1):
        spent = [0.0, 0.0]
        for place in rng.permutation(2):
            spent[place] = train_by_retort(training, x, y, epochs) if place else train_by_hand(net, x, y, epochs)
        seconds.append(spent)
    found = np.array(seconds[1:]) * 1e3 / (epochs * len(x) / BATCH)
    by_hand, retort = np.median(found, 0).tolist()
    again = np.median(found[rng.integers(0, rounds, (RESAMPLES, rounds))], axis=1)
    low, high = np.quantile(again[:, 1] / again[:, 0], (0.025, 0.975)).tolist()
    return Cost(net, by_hand, retort, retort / by_hand, low, high)


def steps_per_second(processes: int, epochs: int) -> float:
    """Steps of a training of the CNN per second of wall time, with the same batch over all processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    module = ["-m", "retort.benchmarks.suites.training", INSIDE, "--epochs", str(epochs)]
    command = [sys.executable, *(launch if processes > 1 else []), *module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _train_inside(epochs: int) -> int:
    """One process of a training over several: rank 0 prints the steps per second."""
    x, y = data("cnn")
    training = repeated("cnn")
    train_by_retort(training, x, y, 1)
    began = time.perf_counter()
    train_by_retort(training, x, y, epochs)
    sys.stdout.write(f"{epochs * len(x) / BATCH / (time.perf_counter() - began)}\n")
    return 0


def _inside(epochs: int) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _train_inside(epochs)
    with together() as team:
        if team.rank:
            take_part(team)
            return 0
        code = _train_inside(epochs)
        team.end()
        return code


def main() -> int:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--processes", action="store_true", help="also measure 1 and 2 processes")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return _inside(given.epochs)
    costs = [cost_of(net, given.rounds, given.epochs) for net in ("cnn", "encoder")]
    write = sys.stdout.write
    for cost in costs:
        write(f"{cost.net:>8}  by hand {cost.by_hand_ms:.2f} ms, Retort {cost.retort_ms:.2f} ms a step: ")
        write(f"{cost.ratio:.3f} ({cost.low:.3f} to {cost.high:.3f})\n")
    rates = {str(count): steps_per_second(count, given.epochs) for count in (1, 2)} if given.processes else {}
    for processes, rate in rates.items():
        write(f"{processes:>8}  process(es), one thread each: {rate:.1f} steps a second\n")
    if rates:
        write("          processes on shared cores gain nothing: they are for several GPUs or sockets\n")
    passed = all(cost.ratio <= GOAL for cost in costs)
    found = {"costs": [asdict(cost) for cost in costs], "steps_per_second": rates, "passed": passed}
    write(json.dumps({**found, "machine": fingerprint()}, default=str) + "\n")
    return 0 if passed else MISSED


if __name__ == "__main__":
    sys.exit(main())
