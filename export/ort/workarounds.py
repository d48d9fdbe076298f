"""Patches and graph forms that avoid faults of ONNX Runtime and of the exporter's libraries; each states its reason.

See :mod:`retort.core.workarounds` for the rule.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..graph_edit import add_constant, constant, dims, every_node, is_op

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def keep_padding(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write the axes of a padding before a maximum pooling explicitly.

    A form of the graph, not a patch. Seen in ONNX Runtime 1.31.

    Upstream: https://github.com/microsoft/onnxruntime/pull/18136 added the fusion; no upstream issue found.
    Another tool had the same fault: https://github.com/onnx/optimizer/pull/318.

    Without it: ONNX Runtime fuses a ``Pad`` with zeros into the ``MaxPool`` after it, which pads with minus infinity.
    The maximum of a window at the border is then wrong if all its values are negative. ONNX Runtime does not fuse a
    ``Pad`` that has the optional input ``axes``.
    """
    changed = False
    for node in every_node(model):
        if not is_op(node, "Pad") or not any(is_op(use.node, "MaxPool") for use in node.outputs[0].uses()):
            continue
        shape, pads = dims(node.inputs[0]), constant(node.inputs[1])
        if shape is None or pads is None or len(pads) != 2 * len(shape) or len(node.inputs) > 3:
            continue
        axes = add_constant(model, f"{node.outputs[0].name}_axes", np.arange(len(shape), dtype=np.int64))
        node.resize_inputs(4)
        node.replace_input_with(3, axes)
        changed = True
    return model, changed


@functools.cache
def parse_operators_once() -> None:
    """Keep the exporter's definitions of its 500 operators, which it parses.

    Patched: ``get_torchlib_ops`` of onnxscript's private module for torch, and ``op_signature_from_function`` of the
    exporter, for the rest of the process. Seen in torch 2.13 with onnxscript 0.7.

    Upstream: no upstream issue found.

    Without it: each export parses all of them again, which takes 0.8 s, and reads the types of their arguments again,
    which takes 0.15 s; nothing else changes.
    """
    try:
        lazy: Any = import_module("torch.onnx._internal._lazy_import").onnxscript_apis
        schemas: Any = import_module("torch.onnx._internal.exporter._schemas")
        listed, read = lazy.get_torchlib_ops, schemas.op_signature_from_function
        lazy._module.get_torchlib_ops = functools.cache(listed)
        schemas.op_signature_from_function = functools.lru_cache(maxsize=2000)(read)
    except (ImportError, AttributeError):
        return  # other names in other versions: each export takes longer


@contextmanager
def linear_rules() -> Iterator[None]:
    """The exporter's rewriting without rules that compare every node with every other (two slices as one split).

    Patched: ``onnxscript.rewriter._DEFAULT_REWRITE_RULES``, without the rules whose ``_target_pattern`` has several
    output nodes. Seen in onnxscript 0.7.

    Upstream: no upstream issue found.

    Without it: these rules take minutes on a graph of some thousand nodes, and do not make it measurably faster.
    """
    rewriter: Any = import_module("onnxscript.rewriter")
    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", None)
    if rules is None:  # another name in another version: each export takes longer
        yield
        return
    rewriter._DEFAULT_REWRITE_RULES = tuple(itertools.compress(rules, map(starts_from_one_node, rules)))
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def starts_from_one_node(rule: Any) -> bool:
    """Whether a rewriting rule visits each node once; groups of rules do."""
    pattern = getattr(rule, "_target_pattern", None)
    return pattern is None or bool(pattern.has_single_output_node)


@contextmanager
def exact_constants() -> Iterator[None]:
    """The exporter's rewriting with rules that match a constant only if it is exactly equal.

    Patched: ``isclose`` as ``onnxscript.rewriter._matcher`` sees it. Seen in onnxscript 0.7.

    Upstream: no upstream issue found.

    Without it: a rule such as ``x + 0 = x`` accepts every constant up to 1e-8, and a file computes ``log(x * x)`` where
    the program computes ``log(x * x + 1e-10)``: minus infinity or NaN for silence, padding and black images.
    """
    matcher: Any = import_module("onnxscript.rewriter._matcher")
    before = getattr(matcher, "math", None)
    if before is None:  # another place in another version, which the test of this patch notices
        yield
        return
    matcher.math = SimpleNamespace(isclose=_equal)
    try:
        yield
    finally:
        matcher.math = before


def _equal(value: float, expected: float, **_tolerances: float) -> bool:
    return value == expected


@contextmanager
def without_guards(program: ExportedProgram) -> Iterator[None]:
    """The program without its conditions on sizes.

    Patched: ``module`` of this one program, which then leaves out ``_guards_fn``. Seen in torch 2.13.

    Upstream: https://github.com/pytorch/pytorch/pull/161178 added the conditions; no upstream issue found.

    Without it: the ONNX exporter runs a loaded program on symbolic sizes, for which PyTorch cannot decide some
    conditions, and the export fails.
    """
    own = vars(program)
    own["module"] = functools.partial(program.module, check_guards=False)
    try:
        yield
    finally:
        del own["module"]
