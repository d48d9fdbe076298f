"""Explanations of any model that can be run: a file, an archive, a program or an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.artifact import Artifact, raise_if_not
from ..core.console import SILENT, Console
from ..core.data.splits import Split, Splits, rows_of
from ..core.errors import DataError, InputError, UserError
from ..core.explanation.evaluations import Run, Sample, batch_axis_of, samples_of
from ..core.explanation.explain import Setting, explain_sample
from ..core.explanation.explanation import FROM_OUTSIDE, Asked, Explanation
from ..core.explanation.gallery import Gallery, Item
from ..core.session import SessionOptions, model_faults
from ..core.signature import Signature
from ..core.tensors import BATCH, Array, Feeds, TensorSpec, raise_if_nan
from ..serve.client import Client
from .live.data.adapters import as_splits
from .local_models import open_local

ROWS, FEW, REFERENCES = 32, 8, 256


@dataclass(frozen=True)
class Subject:
    """A model that is explained.

    Attributes:
        run: computes the outputs of a batch.
        signature: None for an endpoint, whose signature follows from a request.
        allow_nan: whether its inputs may be NaN.
        explain: explains one sample; for a program, also by methods that look into it.
    """

    name: str
    run: Run
    signature: Signature | None = None
    allow_nan: bool = False
    explain: Callable[[Setting, Sample, Asked], Explanation] = explain_sample


@dataclass(frozen=True)
class Samples:
    """What is explained.

    Attributes:
        feeds: inputs with a batch axis.
        rows: the number of each sample in its source.
        targets: classes or values of the samples, if they are known.
        means: mean of each table of other samples, by input.
        classes: names of the classes of ``targets``.
        pieces: what the tokens of each sample stand for, by input.
    """

    source: str
    feeds: Feeds
    rows: Sequence[int]
    targets: Array | None = None
    means: Mapping[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    pieces: Sequence[Mapping[str, Sequence[str]]] = ()


@contextmanager
def opened(artifact: Artifact, settings: SessionOptions) -> Iterator[Subject]:
    """The model of a graph, a program or an engine, or in an archive, a bundle or a deployment.

    Raises:
        RetortError: it cannot be opened.
    """
    raise_if_not(artifact, "graph", "program", "engine", "archive", "bundle", "deployment")
    model = open_local(artifact, settings)

    def run(feeds: Feeds) -> dict[str, Array]:
        with model_faults(model.name):
            return model.session.run(feeds)

    try:
        how = _looking_into(artifact) if artifact.kind == "program" else explain_sample
        yield Subject(model.name, run, model.session.signature, model.allow_nan, how)
    finally:
        model.session.close()


def _looking_into(artifact: Artifact) -> Callable[[Setting, Sample, Asked], Explanation]:
    """Explains samples of a program; it is read again with its graph only if a method looks into it."""
    programs: list[Any] = []

    def explained_program(setting: Setting, sample: Sample, asked: Asked) -> Explanation:
        if asked.method in FROM_OUTSIDE:
            return explain_sample(setting, sample, asked)
        from ..compress.explanation.explain import explain_program
        from ..compress.program import load_program

        if not programs:
            programs.append(load_program(artifact.main))
        return explain_program(programs[0], setting, sample, asked)

    return explained_program


def served(client: Client) -> Subject:
    """The model behind an endpoint."""
    return Subject(client.address.name, client.predict)


def inferred(feeds: Feeds, outputs: Feeds) -> Signature:
    """The signature of an endpoint, from one request and its answer; the first axis is that of the batch."""
    inputs, results = (
        tuple(TensorSpec(name, str(np.asarray(array).dtype), (BATCH, *np.shape(array)[1:])) for name, array in found)
        for found in (feeds.items(), outputs.items())
    )
    return Signature(inputs, results)


def samples_of_split(splits: Splits, start: int, rows: int, source: str) -> Samples:
    """Samples of the test split, and the means of the tables of training samples.

    Raises:
        DataError: the split has no such samples.
    """
    stop = min(start + rows, len(splits.test))
    if start >= stop:
        remedy = f"give a number below {len(splits.test)}"
        raise DataError(f"the test split of {source} has no sample {start}", remedy)
    feeds, targets = splits.test.read(range(start, stop))
    return Samples(source, feeds, range(start, stop), targets, _means(splits.train), splits.classes)


def _means(split: Split) -> dict[str, Array]:
    """Means of the tables of a split; none of a few samples, which may be those that are explained."""
    if len(split) < FEW:
        return {}
    tables = {name: array for name, array in rows_of(split, REFERENCES).items() if array.ndim == 2}
    return {name: array.mean(axis=0) for name, array in tables.items() if array.dtype.kind == "f"}


def explained(artifact: Artifact, data: Any, rows: int, asked: Asked, console: Console = SILENT) -> Gallery:
    """Explain the first samples of live data.

    Raises:
        RetortError: the model cannot be opened, or the data or what is asked for do not fit it.
    """
    if rows < 1:
        raise UserError(f"rows is {rows}, but at least one sample is explained", "give rows=4")
    with opened(artifact, SessionOptions(threads=0)) as subject:
        assert subject.signature is not None
        splits = as_splits(data, subject.signature, "test")
        source = data if isinstance(data, str) else "the samples"
        return gallery_of(subject, samples_of_split(splits, 0, rows, source), [asked], splits.describing, console)


def samples_of_feeds(feeds: Feeds, start: int, rows: int, signature: Signature | None, source: str) -> Samples:
    """Samples of arrays that a user gave.

    Raises:
        InputError: there are no such samples, or the names are not those of the inputs.
    """
    if signature is not None:
        signature.check_names(feeds)
    axes = {name: _axis(signature, name) for name in feeds}
    chosen: dict[str, Array] = {}
    stop = start
    for name, array in feeds.items():
        axis = axes[name]
        if axis is None or np.ndim(array) <= axis:
            chosen[name] = array
            continue
        size = np.shape(array)[axis]
        if start >= size:
            raise InputError(f"{source} has no sample {start}", f"give a number below {size}")
        stop = min(start + rows, size)
        chosen[name] = np.take(array, range(start, stop), axis=axis)
    return Samples(source, chosen, range(start, max(stop, start + 1)))


def _axis(signature: Signature | None, name: str) -> int | None:
    """The batch axis of an input; the first one where the signature is not known."""
    spec = next((spec for spec in signature.inputs if spec.name == name), None) if signature else None
    return 0 if signature is None or spec is None else batch_axis_of(signature, spec)


def gallery_of(
    subject: Subject,
    samples: Samples,
    asked: Sequence[Asked],
    describe: Callable[[Signature], Signature],
    console: Console = SILENT,
) -> Gallery:
    """Explain samples, each for everything that is asked.

    Args:
        describe: adds names of classes, symbols and features to a signature.

    Raises:
        InputError: what is asked for, or a sample, does not fit the model.
    """
    signature = subject.signature
    if signature is None:
        first = {name: np.asarray(array)[:1] for name, array in samples.feeds.items()}
        signature = inferred(first, subject.run(first))
    signature = describe(signature)
    each = [_sample(subject, signature, samples.feeds, index) for index in range(len(samples.rows))]
    items: list[Item] = []
    with console.progress("explain", sum(one.budget for one in asked) * len(each)) as bar:
        for index, (row, sample) in enumerate(zip(samples.rows, each, strict=True)):
            for one in asked:
                setting = Setting(subject.run, signature, ROWS, samples.means, bar.advance)
                found = subject.explain(setting, sample, one)
                bar.advance(one.budget - found.used, f"sample {row}")
                truth = _truth(samples, samples.classes or signature.classes, index)
                items.append(Item(row, sample, found, truth, samples.pieces[index] if samples.pieces else {}))
    return Gallery(subject.name, samples.source, signature, items)


def _sample(subject: Subject, signature: Signature, feeds: Feeds, index: int) -> dict[str, Array]:
    """One sample without batch axes, checked."""
    axes = {name: _axis(signature, name) for name in feeds}
    one = {
        name: array if axis is None or np.ndim(array) <= axis else np.take(array, [index], axis=axis)
        for (name, array), axis in zip(feeds.items(), axes.values(), strict=True)
    }
    checked = signature.validate(signature.whole_batch(one))
    if not subject.allow_nan:
        for name, array in checked.items():
            raise_if_nan(name, array)
    return samples_of(signature, checked)[0]


def _truth(samples: Samples, classes: Sequence[str], index: int) -> str:
    """The class or value of a sample in words."""
    if samples.targets is None:
        return ""
    value = samples.targets[index]
    if np.ndim(value):
        return ""
    if samples.targets.dtype.kind not in "iu":
        return f"{float(value):.4g}"
    number = int(value)
    return f"'{classes[number]}'" if 0 <= number < len(classes) else f"class {number}"
