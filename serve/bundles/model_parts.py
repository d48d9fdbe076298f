"""The parts of what is packed: an ONNX file, a bundle, or a plan of TensorRT, whose profiles must fit its samples."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.artifact import Artifact, raise_if_not
from ...core.backends.trt_plan import Plan, read_plan
from ...core.errors import ArtifactError, MachineError, MissingFileError, UserError
from ...core.options.serving_options import BundleOptions
from ...core.session import open_session
from ...core.signature import Signature
from ...core.tensors import Array
from ..engine import GOLDEN, SIGNATURE, TOKENIZER, split_golden
from ..requests.hook import HOOK
from ..requests.wire import read_npz
from ..settings import PLAN, TRUSTED
from .bundle import Parts, carried_file, check_golden, computed, read_graph
from .made_up_inputs import made_up


def read_model(artifact: Artifact, options: BundleOptions, base: Path = Path()) -> Parts:
    """Read the parts for serving from a graph, an engine, a bundle, or a plain file.

    Args:
        base: the folder at which a relative path begins.

    Raises:
        ArtifactError: the artifact is of another kind, or its files contradict each other.
        MissingFileError: there is no such file of golden samples.
        UserError: the model takes no request, or a plan has no golden outputs and cannot be run here.
    """
    raise_if_not(artifact, "graph", "engine", "bundle")
    given = None if options.golden is None else _read_golden(base / options.golden)
    return _read_plan(artifact, given) if artifact.main.suffix == ".plan" else read_graph(artifact, given)


def _read_golden(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise MissingFileError(f"no such file of golden samples: {path}", "give an .npz file with in.NAME and out.NAME")
    found = read_npz(path.read_bytes(), TRUSTED)
    odd = next((name for name in found if not name.startswith(("in.", "out."))), None)
    if odd is not None or not found:
        raise UserError(
            f"{path} has an array '{odd}'" if found else f"{path} has no arrays",
            "name them in.NAME and out.NAME after the inputs and outputs of the model",
        )
    return found


def _read_plan(artifact: Artifact, given: Mapping[str, Array] | None) -> Parts:
    path = artifact.main
    plan = read_plan(path)
    if path.name != Path(PLAN).name:
        raise ArtifactError(f"{path.name} is not named {Path(PLAN).name}", "give the folder of `retort engine`")
    # a bundle knows more of its model than its plan does, such as how it reads raw samples
    folder = artifact.path if artifact.kind == "bundle" else path.parent
    signature = Signature.from_json((folder / SIGNATURE).read_bytes())
    plan = plan.signed(signature)
    stored = folder / GOLDEN
    golden = given or (read_npz(stored.read_bytes(), TRUSTED) if stored.is_file() else {})
    if not split_golden(golden)[1]:
        golden = _computed(plan, golden)
    # half precision may be that of the plan's own inputs and outputs
    golden = {name: _as(array, signature, name) for name, array in golden.items()}
    check_golden(signature, golden)
    _require_profile(plan, split_golden(golden)[0])
    made = Parts(path, (), signature, golden, plan=plan)
    if artifact.kind != "bundle":
        return made
    return replace(made, tokenizer=carried_file(artifact, TOKENIZER), hook=carried_file(artifact, HOOK))


def _as(array: Array, signature: Signature, name: str) -> Array:
    """A stored array in the type that the plan's input or output has, which may have fewer bits than the graph's."""
    wanted = {f"in.{spec.name}": spec.dtype for spec in signature.inputs}
    wanted |= {f"out.{spec.name}": spec.dtype for spec in signature.outputs}
    narrower = name in wanted and array.dtype.kind == "f" and np.dtype(wanted[name]).kind == "f"
    return array.astype(wanted[name]) if narrower else array


def _computed(plan: Plan, golden: Mapping[str, Array]) -> dict[str, Array]:
    """Golden samples by the plan itself.

    Raises:
        UserError: it cannot be run on this machine.
    """
    try:
        session = open_session(plan.path)
    except MachineError as error:
        raise UserError(
            f"{plan.path.name} has no golden outputs, and none can be computed here: {error.message}",
            "give --golden samples.npz with in.NAME and out.NAME, or pack it on a machine with its GPU",
        ) from error
    with closing(session):
        return computed(session, golden) if golden else made_up(session, min(4, plan.largest_batch or 4))


def _require_profile(plan: Plan, inputs: Mapping[str, Array]) -> None:
    shapes = {
        name: tuple(array.shape) for name, array in inputs.items() if name not in plan.built.get("shape_inputs", ())
    }
    if plan.profiles and plan.nearest_profile(shapes) is None:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise UserError(f"no profile of {plan.path.name} contains its golden samples, {shown}", plan.served())
