"""Edits of exported programs, on a copy: their constants, and a graph with its signature."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..core.backends.eager import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram


def constants_of(program: ExportedProgram) -> dict[str, Tensor]:
    """Parameters, buffers and lifted constants by the name of the graph's placeholder."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    stores = (program.state_dict, program.constants)
    return {node: next(store[name] for store in stores if name in store) for node, name in names.items()}


def copied(program: ExportedProgram) -> tuple[Any, Any]:
    """A copy of the graph and its signature. Copying renames nodes with the name of a Python built-in (`input_1`)."""
    with quiet():
        module, signature = copy.deepcopy(program.graph_module), copy.deepcopy(program.graph_signature)
    names = {old.name: new.name for old, new in zip(program.graph.nodes, module.graph.nodes, strict=True)}
    for spec in [item for item in (*signature.input_specs, *signature.output_specs) if hasattr(item.arg, "name")]:
        spec.arg.name = names.get(spec.arg.name, spec.arg.name)
    return module, signature


def with_own_names(program: ExportedProgram) -> ExportedProgram:
    """The program, or a copy in which no parameter, buffer or constant has the name of an input of the graph.

    The exporter gives weights the names of the parameters one after the other, so that the parameter ``p_x_weight``
    would replace the graph's input ``p_x_weight``, which is the weight of the layer ``x``.
    """
    inputs = {node.name for node in program.graph.nodes if node.op == "placeholder"}
    stores = (program.state_dict, program.constants)
    taken = {*inputs, *(name for store in stores for name in store)}
    renamed = {}
    for name in [name for store in stores for name in store if name in inputs]:
        new, number = name, 0
        while taken & {new, *(f"{kind}_{new}" for kind in "pbc")}:
            number += 1
            new = f"{name}_{number}"
        taken |= {new, *(f"{kind}_{new}" for kind in "pbc")}
        renamed[name] = new
    if not renamed:
        return program
    module, signature = copied(program)
    for spec in signature.input_specs:
        spec.target = renamed.get(spec.target, spec.target)
    state, constants = ({renamed.get(name, name): value for name, value in store.items()} for store in stores)
    return assembled(program, module, signature, constants, state)


def assembled(
    program: ExportedProgram,
    module: Any,
    signature: Any,
    constants: dict[str, Any],
    state: dict[str, Any] | None = None,
) -> ExportedProgram:
    """The edited copy as a program; ``state`` replaces its parameters and buffers."""
    from torch.export import ExportedProgram as Exported

    module.graph.lint()
    module.recompile()
    with quiet():
        return Exported(
            root=module,
            graph=module.graph,
            graph_signature=signature,
            state_dict=program.state_dict if state is None else state,
            range_constraints=copy.deepcopy(program.range_constraints),
            module_call_graph=copy.deepcopy(program.module_call_graph),
            example_inputs=program.example_inputs,
            constants=constants,
            verifiers=program.verifiers,
        )


def declare_constant(module: Any, signature: Any, name: str, value: Tensor) -> Any:
    """Declare a constant before the program's first own input."""
    from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

    specs = signature.input_specs
    index = next(i for i, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    fake = next(node.meta["val"].fake_mode for node in placeholders if hasattr(node.meta.get("val"), "fake_mode"))
    with module.graph.inserting_before(placeholders[index]):
        node = module.graph.placeholder(f"c_{name}")
    node.meta["val"] = fake.from_tensor(value, static_shapes=True)
    specs.insert(index, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name, None))
    return node
