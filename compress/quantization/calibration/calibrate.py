"""Calibration: runs the FP32 program once over the calibration split and computes the range of every point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches, check_finite
from ....core.errors import DataError
from ....core.options.stage_options import QuantizeOptions, Target
from ...graph.devices import as_tensor
from ...program import Program, device_of, evaluating
from ..operator_classes import fixed_grid
from ..points import Placement, name_in_model
from ..scheme import SCHEMES, Range, Scheme
from .clipping import Entropy, SquaredError
from .hard_activations import FromGate, gate_of
from .observers import MinMax, MovingAverage, Observer, Percentile, Watcher

_REMEDY = "increase `data.calibration` or `quantize.samples`, or check the data source"


_FEWEST = {"auto": 1, "minmax": 1, "moving": 1, "percentile": 4, "mse": 4, "entropy": 16}


def new_observer(options: QuantizeOptions, scheme: Scheme) -> Observer:
    """The observer of the calibration method that the options select."""
    made: dict[str, Callable[[], Observer]] = {
        "auto": MinMax,
        "minmax": MinMax,
        "moving": MovingAverage,
        "percentile": lambda: MinMax() if options.percentile == 100 else Percentile(options.percentile),
        "mse": lambda: SquaredError(scheme),
        "entropy": Entropy,
    }
    return made[options.method]()


def calibrate(
    program: Program,
    placement: Placement,
    split: Split,
    options: QuantizeOptions,
    console: Console = SILENT,
    target: Target = "cpu",
) -> dict[fx.Node, Range]:
    """The range of every point of a placement.

    Args:
        program: the program for which the placement was made; it is not changed.
        placement: the tensors to watch.
        split: calibration samples, of which at most ``options.samples`` are read, ``options.batch_size`` at a time.
        options: the method, the number of samples and the batch size.
        console: shows a progress bar.
        target: the target for whose grids the ranges are computed.

    Returns:
        One range per point. The points of a group share one range if the clamps before them allow it.

    Raises:
        DataError: there are too few samples for the method, or a sample or an activation (which the message names)
            has NaN or infinite values.
        InputError: the samples do not fit the program's signature.
    """
    if len(split) == 0:
        raise DataError("the calibration set is empty", _REMEDY)
    count, fewest = min(len(split), options.samples), _FEWEST[options.method]
    if count < fewest:
        raise DataError(
            f"{count} calibration samples are too few for the method '{options.method}', which needs {fewest}",
            "increase `data.calibration` or `quantize.samples`, or set `method: minmax`",
        )
    scheme = SCHEMES[target]
    observers: dict[fx.Node, Observer] = {value: new_observer(options, scheme) for value in placement.points}
    if not scheme.symmetric:
        gated = [value for value in observers if gate_of(placement, value) is not None]
        observers.update({value: FromGate(observers[value]) for value in gated})
    watch(program, observers, split, options, console)
    ranges = {value: observer.range() for value, observer in observers.items()}
    _warn_of_constants(ranges, console)
    for group in placement.groups:
        _equalise(group, ranges, placement)
    return ranges


def _warn_of_constants(ranges: Mapping[fx.Node, Range], console: Console) -> None:
    """Warn of the activations that had the same value in all calibration samples."""
    names = [name_in_model(value) for value, span in ranges.items() if span.low == span.high and not fixed_grid(value)]
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        console.warn(
            f"{shown}: calibration saw only one value, so the scale is a guess. Check that the samples are "
            "preprocessed as in training and that they cover all classes"
        )


def watch(
    program: Program,
    observers: Mapping[fx.Node, Watcher],
    split: Split,
    options: QuantizeOptions,
    console: Console = SILENT,
    label: str = "calibrate",
) -> None:
    """Run the program over calibration samples and pass the observed tensors to their observers.

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
            # an output may be infinite, as masked logits are: only what is quantized needs a range
            if watcher.broken is not None or not all(map(_defined, outputs)):
                raise _not_finite(program, tensors, watcher.broken)
            bar.advance(program.signature.batch_size(feeds))


def _equalise(group: list[fx.Node], ranges: dict[fx.Node, Range], placement: Placement) -> None:
    """Give all members of a group one range, unless it exceeds the clamp of a member."""
    joint = ranges[group[0]]
    for value in group[1:]:
        joint = joint.union(ranges[value])
    if all(joint.inside(placement.points[value].bounds) for value in group):
        ranges.update(dict.fromkeys(group, joint))


class _Watcher(fx.Interpreter):
    """Runs the graph and passes the observed tensors to their observers."""

    def __init__(self, module: fx.GraphModule, observers: Mapping[fx.Node, Watcher]) -> None:
        super().__init__(module)
        self._observers = observers
        self.broken: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and pass its output to its observer."""
        value = super().run_node(n)
        observer = self._observers.get(n)
        if observer is not None and not observer.update(value) and self.broken is None:
            self.broken = n
        return value


class _FirstNotFinite(fx.Interpreter):
    """Finds the first node whose output is not finite."""

    found: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and check its output."""
        value = super().run_node(n)
        if self.found is None and n.op == "call_function" and not _finite(value):
            self.found = n
        return value


def _finite(value: Any) -> bool:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not floating or bool(torch.isfinite(value).all())


def _defined(value: Any) -> bool:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not floating or not bool(torch.isnan(value).any())


def _not_finite(program: Program, tensors: list[torch.Tensor], seen: fx.Node | None) -> DataError:
    search = _FirstNotFinite(program.module)
    search.run(*tensors)
    node = search.found or seen
    name = "an output" if node is None else f"the activation of '{name_in_model(node)}' ({node.name})"
    return DataError(
        f"calibration: {name} has NaN or infinite values",
        "check the weights and the scale of the inputs, because the FP32 model itself overflows there",
        node=None if node is None else node.name,
    )
