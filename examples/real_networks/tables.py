"""Two emulators of rows of a table from their packages: malaria in a population, and the gravity of stars.

``prevalence`` of ``minte`` reads twelve covariates of a scenario and the season at each of 157 steps and gives the
prevalence of malaria (three LSTM layers, time first); ``gravity`` of ``apogeebrain`` reads the temperature and two
abundances of a giant star and gives the logarithm of its surface gravity (a perceptron; rows of its training table).
What the networks emulate is not in the packages, so that the truth is the network in float64; the metric is the share
of values within a small distance of it, and of FP32 100 %.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .packages import Array, Outputs, Scores, package_folder

STEPS, FIRST_DAY, DAYS, CHANGE_DAY = 157, 6 * 365, 14, 9 * 365
MEANS = (60.0903, 0.3110, 0.3136, 0.7988, 0.6623, 0.4780, 0.4847, 0.2287, 0.1498, 0.2409, 0.1729, 0.2418)
DEVIATIONS = (105.5272, 0.1586, 0.1592, 0.1174, 0.1580, 0.4995, 0.4998, 0.3126, 0.2597, 0.3215, 0.2876, 0.3201)
"""Of the covariates, from the package's scaler, which is a pickled object."""
LATER = [2, 6, 9, 10, 11]
"""Covariates that are 0 until the ninth year."""
NEAR = {"prevalence": 0.005, "gravity": 0.02}
COUNTS = {"train": 8, "validation": 24, "calibration": 64, "test": 64}
ROWS = {"train": 256, "validation": 512, "calibration": 512, "test": 2000}


class Prevalence(nn.Module):
    """Three LSTM layers over ``[157, N, 16]``; gives the logit of the prevalence ``[157, N, 1]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.ln, self.fc = nn.LSTM(16, 64, 3), nn.LayerNorm(64), nn.Linear(64, 1)

    def forward(self, steps: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.fc(self.ln(self.lstm(steps)[0]))
        return found


class Gravity(nn.Module):
    """A perceptron over labels of stars ``[N, 3]``, which it scales; gives the logarithm of the gravity ``[N, 1]``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(3, 50), nn.LeakyReLU(), nn.Linear(50, 50), nn.LeakyReLU(), nn.Linear(50, 1)
        )
        self.low, self.high = nn.Buffer(torch.zeros(3)), nn.Buffer(torch.ones(3))

    def forward(self, labels: Tensor) -> Tensor:
        """Logarithms in base 10, of cm/s²."""
        found: Tensor = self.features((labels - self.low) / (self.high - self.low) - 0.5)
        return found


def model(name: str = "gravity") -> nn.Module:
    """A network, ``prevalence`` or ``gravity``, with its trained weights.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    made: nn.Module
    if name == "prevalence":
        made, path = Prevalence(), package_folder("minte", "minte") / "models/prevalence/lstm_best.pt"
        made.load_state_dict(torch.load(path, "cpu", weights_only=True)["model_state_dict"])
        return made.eval()
    made, stored = Gravity(), _stored()
    state = {key: torch.from_numpy(value) for key, value in stored.items() if key.startswith("features")}
    made.load_state_dict({**state, "low": torch.from_numpy(stored["xmin"]), "high": torch.from_numpy(stored["xmax"])})
    return made.eval()


def _stored() -> dict[str, Array]:
    with np.load(package_folder("apogeebrain", "apogeebrain") / "data/apogeedr17_rgb_logg_ann.npz") as stored:
        return {key: stored[key] for key in stored.files}


def splits(name: str = "gravity") -> dict[str, dict[str, Array]]:
    """Scenarios ``[N, 157, 16]`` or labels of stars ``[N, 3]`` in four splits."""
    return {split: _rows(name, split) for split in COUNTS}


def _rows(name: str, split: str) -> dict[str, Array]:
    draw = np.random.default_rng(sorted(COUNTS).index(split))
    if name == "prevalence":
        return {"steps": np.array([_scenario(draw) for _ in range(COUNTS[split])], np.float32)}
    table = _stored()["training_labels"]
    order = np.random.default_rng(9).permutation(len(table))
    ends = np.cumsum([0, *ROWS.values()])
    place = list(ROWS).index(split)
    return {"labels": table[order[ends[place] : ends[place + 1]]]}


def _scenario(draw: np.random.Generator) -> Array:
    """Covariates, the season and the years since the change, for each step of 14 days ``[157, 16]``."""
    days = FIRST_DAY + DAYS * np.arange(STEPS)
    low, high = (np.array([ends[place] for ends in _RANGES]) for place in (0, 1))
    covariates = draw.uniform(low, high)
    covariates[0] = np.exp(draw.uniform(np.log(1), np.log(400)))
    covariates[[5, 6]] = draw.integers(0, 2, 2)
    rows = np.tile(covariates, (STEPS, 1))
    after = days >= CHANGE_DAY
    rows[:, LATER] *= after[:, None]
    angle = 2 * np.pi * (days % 365) / 365
    years = np.maximum(0, days - CHANGE_DAY) / 365
    scaled = (rows - np.array(MEANS)) / np.array(DEVIATIONS)
    return np.column_stack([np.sin(angle), np.cos(angle), scaled, after, years]).astype(np.float32)


_RANGES = ((1, 400), (0.1, 0.55), (0.1, 0.55), (0.6, 1), (0.4, 0.95), (0, 1), (0, 1), *[(0, 0.8)] * 5)


def scores(name: str, outputs: Outputs) -> Scores:
    """The number of values of each test sample that are near those of the network in float64, and all its values."""
    rows = torch.from_numpy(next(iter(_rows(name, "test").values()))).double()
    axis = 1 if name == "prevalence" else 0
    with torch.no_grad():
        wanted = model(name).double()(rows.transpose(0, axis)).transpose(0, axis).numpy().reshape(len(rows), -1)
    found = next(iter(outputs.values())).astype(np.float64).reshape(len(rows), -1)
    if name == "prevalence":
        wanted, found = (1 / (1 + np.exp(-value)) for value in (wanted, found))
    near = np.abs(found - wanted) <= NEAR[name]
    return near.sum(1).astype(np.float64), np.full(len(rows), float(near.shape[1]))
