"""Translation of a program to ONNX: its graph, names and axes, and the error if an operator has no ONNX form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import values
from torch.export import ExportedProgram

from ..core.backends.eager import load_exported, quiet
from ..core.cpu_targets import is_for_cpu
from ..core.dynamic_kernels import RecurrentForm, form_on
from ..core.errors import CaptureError, ModelError, UserError, VerificationError
from ..core.graph_state import REMEDY, state_in_words, state_of
from ..core.options.stage_options import Target
from ..core.signature import Signature
from ..core.workarounds import free_time, list_operators_once
from . import (
    activation_translation,
    adaptive_pooling_translation,
    attention_translation,
    cumulative_translation,
    recurrent_translation,
    resize_translation,
)
from .ceil_pooling import without_windows_in_padding
from .finalize import finish, name_ports, with_batch_dependence
from .folded_weights import fold_weights
from .ort import activation_forms, pool_forms, transformer_fusions
from .ort.qlinear_fusions import CPU_FORMS, gates_by_clip
from .ort.workarounds import exact_constants, keep_padding, linear_rules, parse_operators_once, without_guards
from .program_edit import with_own_names
from .qdq.retarget import retarget
from .qdq.signed_codes import store_signed
from .qdq.write_dynamic import translate, write_dynamic
from .qdq.write_embeddings import write_tables
from .qdq.write_qdq import DOMAIN, OP, has_qdq, merge_repeated, quantize_before_reshape, write_qdq
from .qdq.write_recurrent import unpack_recurrent, write_recurrent
from .simplify import PASSES, remove_dead, simplify
from .trt.decompositions import without_unsupported

_TRANSLATIONS = (
    activation_translation,
    recurrent_translation,
    attention_translation,
    resize_translation,
    adaptive_pooling_translation,
    cumulative_translation,
)
OPSETS: dict[str, int] = {"cpu": 21, "arm": 20, "tensorrt": 20}
"""The default opset of each target.

21 is the newest opset that the exporter's operators, ONNX Runtime's kernels and its fusions all support (Gelu is one
node from 20 on). The targets with INT8 activations get 20: on x86, ONNX Runtime 1.31 cannot load them at opset 21 where
a DequantizeLinear precedes a Reshape ("output_dtype INT8 does not match y_zero_point type UINT8"), so the file could
not be checked. All Q/DQ forms in use exist since opset 19.
"""


def to_onnx(
    program: ExportedProgram | Path,
    signature: Signature | None = None,
    target: Target = "cpu",
    opset: int | None = None,
) -> onnx.ModelProto:
    """Translate a captured program.

    Args:
        program: an exported program in evaluation form, or the path of a ``.pt2`` file.
        signature: names of inputs, outputs and dynamic axes; by default the signature in the file.
        target: determines the form of quantized activations (see :mod:`retort.export.qdq.retarget`) and the opset.
        opset: version of the standard operators; by default from :data:`OPSETS`.

    Returns:
        The model, with its weights inside.

    Raises:
        CaptureError: an operator has no ONNX form; the message names the operator, its module and its line. Or the
            outputs depend on a buffer that the program changes.
        ModelError: an input and an output have the same name.
        UserError: the model cannot be written in that opset.
        VerificationError: an axis that is dynamic in the signature is fixed in the program.
    """
    if isinstance(program, ExportedProgram):
        assert signature is not None, "an exported program in memory needs its signature"
        exported, stored = program, signature
    else:
        exported, stored, _ = load_exported(program)
    return ir.to_proto(build(retarget(exported, target), signature or stored, target, opset))


def build(
    program: ExportedProgram,
    signature: Signature,
    target: Target,
    opset: int | None = None,
    recurrent: RecurrentForm = "auto",
) -> ir.Model:
    """Translate a program that :func:`retort.export.qdq.retarget.retarget` has converted to the target's form."""
    _require_stateless(program)
    version = opset or OPSETS[target]
    axes = _axes(program, signature)
    model = _translate(with_own_names(fold_weights(program)), version)
    reached = model.graph.opset_imports.get("", version)
    if reached != version:
        raise UserError(f"this model cannot be written in opset {version}", f"set export.opset to {reached} or more")
    name_ports(model, signature)
    if target == "tensorrt":
        without_unsupported(model)
    without_windows_in_padding(model)
    with quiet():
        simplify(model, (*PASSES, attention_translation.skip_searches, merge_repeated, quantize_before_reshape))
    on_cpu = is_for_cpu(target)
    integer = on_cpu and has_qdq(model)
    integer_forms = (*pool_forms.FORMS, *CPU_FORMS, *transformer_fusions.FORMS)
    forms = integer_forms if integer else transformer_fusions.FP32_FORMS
    for form in (*forms, *activation_forms.FORMS) if on_cpu else ():
        form(model)
    write_dynamic(model, target)
    write_recurrent(model, form_on(target, recurrent)) if on_cpu else unpack_recurrent(model)
    write_tables(model, target)
    remove_dead(model)
    if target == "arm":
        store_signed(model)
    write_qdq(model)
    remove_dead(model)
    if integer:
        gates_by_clip(model)
        transformer_fusions.scale_with_bias(model)
        remove_dead(model)
    keep_padding(model)
    return finish(model, with_batch_dependence(model, signature), axes, version)


def _require_stateless(program: ExportedProgram) -> None:
    names = program.graph_signature.inputs_to_buffers
    buffers = [node for node in program.graph.find_nodes(op="placeholder") if node.name in names]
    found = [names[node.name] for node in state_of(program.graph, buffers)]
    if found:
        raise CaptureError(f"{state_in_words(found)}, but an ONNX file keeps nothing between runs", REMEDY)


def _qdq(x: Any, scale: Any, zero_point: Any, axis: int = -1, qmin: int = -128, qmax: int = 127) -> Any:
    """The node that represents ``retort::qdq`` until :func:`retort.export.qdq.write_qdq.write_qdq` replaces it."""
    return _QDQ(x, scale, zero_point, axis=axis, qmin=qmin, qmax=qmax)


def _schema() -> onnx.defs.OpSchema:
    parameter, kinds = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.AttrType
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]
    return onnx.defs.OpSchema(
        OP,
        DOMAIN,
        1,
        inputs=[parameter("x", "T"), parameter("scale", "S"), parameter("zero_point", "Z")],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", floats, ""), ("S", floats, ""), ("Z", ["tensor(int64)", "tensor(int32)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute(name, kinds.INT, "") for name in ("axis", "qmin", "qmax")],
    )


_QDQ = values.Op(values.Opset(DOMAIN, 1), OP, _schema())


def _translate(program: ExportedProgram, opset: int) -> ir.Model:
    table: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.retort.qdq.default: _qdq}
    table[torch.ops.retort.dynamic_qdq.default] = translate
    for module in _TRANSLATIONS:
        table |= module.forms()
    parse_operators_once()
    list_operators_once()
    try:
        # Without gradients: with them, decomposition and type promotion choose different attention kernels, whose
        # strides disagree (Swin: "Cannot view a tensor with shape …").
        with quiet(), torch.no_grad(), free_time(), linear_rules(), exact_constants(), without_guards(program):
            result = torch.onnx.export(
                program, dynamo=True, opset_version=opset, custom_translation_table=table, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise _without_form(error, program) from error
    assert result is not None
    return result.model


def _without_form(error: BaseException, program: ExportedProgram) -> CaptureError:
    """The exporter's error as one sentence with the operator, its module and its line, or the nearest parameter."""
    node = _failed_node(error)
    chain = list(_causes(error))
    reason = str(chain[-1]).splitlines()[0][:200] if str(chain[-1]) else type(chain[-1]).__name__
    if node is None:
        return CaptureError(
            f"the program cannot be written as ONNX: {reason}", "replace the operator that the message names"
        )
    module, line, where = _module(node), _source(node), place(node)
    if not where:
        parameter = _parameter_before(node, program)
        where = f" behind the parameter '{parameter}'" * bool(parameter)
    lacks = any("No ONNX function found" in str(cause) for cause in chain)
    what = "has no ONNX form" if lacks else f"cannot be written as ONNX: {reason}"
    return CaptureError(
        f"op {node.target} {what}{where}",
        "write that part of the model with other operators, or remove it from the exported model",
        op=str(node.target),
        module=module,
        source=line,
    )


def place(node: torch.fx.Node) -> str:
    """`` in module 'layer1.0' (net.py:12: x = torch.foo(x))``, as far as it is known."""
    module, line = _module(node), _source(node)
    return f" in module '{module}'" * bool(module) + f" ({line})" * bool(line)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _failed_node(error: BaseException) -> torch.fx.Node | None:
    # The exporter's message names the node but not its module or line; the node is in the frames of its traceback.
    found: torch.fx.Node | None = None
    for cause in _causes(error):
        trace = cause.__traceback__
        while trace is not None:
            node = trace.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.op == "call_function":
                found = node
            trace = trace.tb_next
    return found


def _module(node: torch.fx.Node) -> str:
    stack = [entry for entry in (node.meta.get("nn_module_stack") or {}).values() if entry]
    path = re.sub(r"^L\['self'\]\.?", "", str(stack[-1][0])) if stack else ""
    # Capture wraps the user's model in a module of Retort, so the first part of the path is not the user's.
    wrapped = bool(stack) and "retort." in str(stack[0][1])
    return path.partition(".")[2] if wrapped else path


def _parameter_before(node: torch.fx.Node, program: ExportedProgram) -> str:
    """The nearest parameter that ``node`` depends on: it locates a node if the file has no stack traces."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    level, seen = [node], {node}
    while level:
        level = [item for current in level for item in current.all_input_nodes if item not in seen]
        seen.update(level)
        found = next((names[item.name] for item in level if item.name in names), "")
        if found:
            return found
    return ""


def _source(node: torch.fx.Node) -> str:
    """``net.py:12: x = torch.foo(x)`` for the innermost line of the model's own code."""
    found = re.findall(r'File "([^"]+)", line (\d+)[^\n]*\n\s*([^\n]*)', str(node.meta.get("stack_trace") or ""))
    if not found:
        return ""
    path, line, text = found[-1]
    return f"{Path(path).name}:{line}: {text.strip()}"


def _axes(program: ExportedProgram, signature: Signature) -> dict[str, str]:
    """The program's symbols (``s77``) and their names in the signature.

    Raises:
        VerificationError: an axis that is dynamic in the signature is fixed in the program.
        ModelError: two names are equal.
    """
    clash = {spec.name for spec in signature.inputs} & {spec.name for spec in signature.outputs}
    if clash:
        raise ModelError(f"'{min(clash)}' is the name of both an input and an output", "give the outputs other names")
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found: dict[str, str] = {}
    for spec, name in zip(signature.inputs, program.graph_signature.user_inputs, strict=True):
        for axis, (wanted, size) in enumerate(zip(spec.shape, nodes[str(name)].meta["val"].shape, strict=True)):
            if isinstance(wanted, str) and isinstance(size, int):
                raise VerificationError(
                    f"axis {axis} ('{wanted}') of input '{spec.name}' is fixed to {size} in the captured program",
                    "capture the model again with a larger example batch, or without code that reads the shape as a "
                    "number",
                )
            if isinstance(wanted, str):
                found.setdefault(str(size), wanted)
    return found
