"""Calibration: the FP32 program runs over the calibration split once, and every point's range is gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ...core.console import SILENT, Console
from ...core.data import Split, batches, check_finite
from ...core.errors import DataError
from ...core.options import QuantizeOptions
from ..devices import as_tensor
from ..program import Program, device_of, evaluating
from .observers import MinMax, Observer, Percentile, Watcher
from .points import Placement, name_in_model
from .scheme import Range

_REMEDY = "raise `data.calibration` or `quantize.samples`, or check the data source"


def new_observer(options: QuantizeOptions) -> Observer:
    """The observer that a method asks for."""
    return MinMax() if options.method == "minmax" or options.percentile == 100 else Percentile(options.percentile)


def calibrate(
    program: Program, placement: Placement, split: Split, options: QuantizeOptions, console: Console = SILENT
) -> dict[fx.Node, Range]:
    """The range of every point of a placement.

    Args:
        program: the program that the placement was made for; it stays as it is.
        placement: the tensors to watch.
        split: calibration samples, of which at most ``options.samples`` are read, ``options.batch_size`` at a time.
        options: method and sizes.
        console: shows a progress bar.

    Returns:
        One range per point; points of a group share theirs where the clamps before them allow it.

    Raises:
        DataError: no samples, NaN or infinite values in them, or in an activation (which is named).
        InputError: the samples do not fit the program's signature.
    """
    if len(split) == 0:
        raise DataError("the calibration set is empty", _REMEDY)
    observers: dict[fx.Node, Observer] = {value: new_observer(options) for value in placement.points}
    watch(program, observers, split, options, console)
    ranges = {value: observer.range() for value, observer in observers.items()}
    for group in placement.groups:
        _equalise(group, ranges, placement)
    return ranges


def watch(
    program: Program,
    observers: Mapping[fx.Node, Watcher],
    split: Split,
    options: QuantizeOptions,
    console: Console = SILENT,
    label: str = "calibrate",
) -> None:
    """Run the program over calibration samples and show tensors to those who watch them.

    Raises:
        DataError: NaN or infinite values in the samples or in an activation (which is named).
        InputError: the samples do not fit the program's signature.
    """
    device, total = device_of(program), min(len(split), options.samples)
    with evaluating(program), torch.inference_mode(), console.progress(label, total) as bar:
        for inputs, _ in batches(split, options.batch_size, options.samples):
            check_finite(inputs, "calibration set")
            feeds = program.signature.validate(inputs)
            tensors = [as_tensor(value, device) for value in feeds.values()]
            watcher = _Watcher(program.module, observers)
            outputs = watcher.run(*tensors)
            if watcher.broken is not None or not all(map(_finite, outputs)):
                raise _not_finite(program, tensors, watcher.broken)
            bar.advance(program.signature.batch_size(feeds))


def _equalise(group: list[fx.Node], ranges: dict[fx.Node, Range], placement: Placement) -> None:
    """One range for all of a group, unless it would reach beyond the clamp of a member."""
    joint = ranges[group[0]]
    for value in group[1:]:
        joint = joint.union(ranges[value])
    if all(joint.inside(placement.points[value].bounds) for value in group):
        ranges.update(dict.fromkeys(group, joint))


class _Watcher(fx.Interpreter):
    """Runs the graph and shows the watched tensors to their observers."""

    def __init__(self, module: fx.GraphModule, observers: Mapping[fx.Node, Watcher]) -> None:
        super().__init__(module)
        self._observers = observers
        self.broken: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and show its output."""
        value = super().run_node(n)
        observer = self._observers.get(n)
        if observer is not None and not observer.update(value) and self.broken is None:
            self.broken = n
        return value


class _Detective(fx.Interpreter):
    """Finds the first node whose output is not finite."""

    found: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and look at its output."""
        value = super().run_node(n)
        if self.found is None and n.op == "call_function" and not _finite(value):
            self.found = n
        return value


def _finite(value: Any) -> bool:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not floating or bool(torch.isfinite(value).all())


def _not_finite(program: Program, tensors: list[torch.Tensor], seen: fx.Node | None) -> DataError:
    detective = _Detective(program.module)
    detective.run(*tensors)
    node = detective.found or seen
    name = "an output" if node is None else f"the activation of '{name_in_model(node)}' ({node.name})"
    return DataError(
        f"calibration: {name} has NaN or infinite values",
        "check the weights and the scale of the inputs: the FP32 model itself overflows there",
        node=None if node is None else node.name,
    )
