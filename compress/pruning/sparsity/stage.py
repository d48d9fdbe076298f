"""The sparsify stage: sets weights to zero, unstructured or N:M, and keeps the zeros through recovery and export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ....core.artifact import Artifact, raise_if_not
from ....core.console import Console
from ....core.context import Context, Place
from ....core.counts import counted
from ....core.data.splits import Split, batches
from ....core.errors import UserError, VerificationError
from ....core.facts.prune_facts import DenseLayer, SparseLayer, SparsifyFacts
from ....core.formats.program_file import fit_context
from ....core.options.stage_options import SparsifyOptions
from ...distillation.distill import recover
from ...graph.devices import as_tensor
from ...graph.module_edit import fetch
from ...program import Program, clone, load_program, set_training, store
from ...training.checkpoint import discard
from ...training.losses import Tensors
from .masks import KEY, MaskedWeight, find_places, grouped, magnitude_masks
from .sparsegpt import HESSIAN_BYTES, LARGEST, as_matrix, columns, from_matrix, hessians, reconstruct

_LABEL = "sparse"

Inputs = Callable[[], Iterable[Tensors]]


def sparsify(options: SparsifyOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that makes weights sparse and recovers.

    Args:
        parent: the program; it is not changed.

    Raises:
        ArtifactError: ``parent`` is not a program.
        UserError: a pattern matches nothing, or no layer can be sparse.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    raise_if_not(parent, "program")
    original, context = load_program(parent.main, context.data), fit_context(context, parent.main)
    console = context.console
    if "quantization" in original.meta:
        raise UserError("sparsify: the program is already quantized", "put `sparsify` before `quantize`")
    program = clone(original)

    def _inputs() -> Iterator[Tensors]:
        return calibration(program, context.data.calibration, options, console)

    layers = make_sparse(program, options, _inputs)
    facts = _facts(program, options, layers)
    console.stage("sparsify", f"{facts.zeros:.1%} of the weights of {counted(facts.layers, 'layer')} are zero")
    for item in facts.dense:
        console.say(f"{item.name} stays dense, because it {item.reason}")
    if options.recover is not None:
        recovery = recover(program, original, options.recover, context, _LABEL)
        facts = facts.model_copy(update={"recovery": recovery})
    check(program)
    stored = store(program, place, "sparsify", options=options, facts=facts)
    discard(context.scratch, _LABEL)
    return stored


def calibration(program: Program, split: Split, options: SparsifyOptions, console: Console) -> Iterator[Tensors]:
    """The calibration inputs in batches, with a progress bar."""
    total = min(len(split), options.samples)
    with console.progress("hessian", -(-total // options.batch)) as bar:
        for raw, _ in batches(split, options.batch, options.samples):
            feeds = program.signature.validate(raw)
            yield {name: as_tensor(value) for name, value in feeds.items()}
            bar.advance()


def make_sparse(program: Program, options: SparsifyOptions, inputs: Inputs) -> dict[str, str]:
    """Set weights of a program to zero, in place, and record them in its ``meta``.

    Args:
        inputs: returns a new iterator over calibration inputs at each call.

    Returns:
        The method of every sparse layer, by parameter: ``magnitude`` or ``reconstruct``.

    Raises:
        UserError: no layer can be sparse; the message gives the reason.
    """
    set_training(program, False)
    places = find_places(program, options)
    taken = [place for place in places if not place.skipped]
    if not taken:
        reasons = "; ".join(f"{place.parameter} {place.skipped}" for place in places[:3]) or "it has no such layers"
        raise UserError(
            f"sparsify: no layer can have the pattern {options.pattern}: {reasons}", "use `pattern: unstructured`"
        )
    fine = [place for place in taken if options.method == "reconstruct" and _fits(program, place)]
    rough = [place for place in taken if place not in fine]
    with torch.no_grad():
        weights = [fetch(program.module, place.parameter) for place in rough]
        for weight, mask in zip(weights, magnitude_masks(weights, rough, options)):
            weight.mul_(mask)
        for chunk in _chunks(program, fine):
            for place, hessian in zip(chunk, _ordered(hessians(program, chunk, inputs()), chunk)):
                weight = fetch(program.module, place.parameter)
                weight.copy_(from_matrix(place, reconstruct(as_matrix(place, weight), hessian, options), weight))
    program.meta[KEY] = {
        "pattern": options.pattern,
        "layers": {place.parameter: _layer_facts(program, place) for place in taken},
    }
    check(program)
    return {place.parameter: "reconstruct" if place in fine else "magnitude" for place in taken}


def _ordered(found: dict[str, Tensor], chunk: list[MaskedWeight]) -> Iterator[Tensor]:
    return (found[place.parameter] for place in chunk)


def _fits(program: Program, place: MaskedWeight) -> bool:
    return 0 < columns(place, fetch(program.module, place.parameter)) <= LARGEST


def _chunks(program: Program, places: list[MaskedWeight]) -> Iterator[list[MaskedWeight]]:
    """Layers whose Hessians are in memory together; later chunks are calibrated with the pruned earlier layers."""
    chunk: list[MaskedWeight] = []
    size = 0
    for place in places:
        own = 8 * columns(place, fetch(program.module, place.parameter)) ** 2
        if chunk and size + own > HESSIAN_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(place)
        size += own
    if chunk:
        yield chunk


def _layer_facts(program: Program, place: MaskedWeight) -> dict[str, int]:
    weight = fetch(program.module, place.parameter)
    return {"axis": place.axis, "values": weight.numel(), "zeros": int((weight == 0).sum())}


def check(program: Program) -> None:
    """Check that the sparse parameters still have the zeros that ``meta`` records.

    Raises:
        VerificationError: zeros were lost; the message names the first layer.
    """
    held = program.meta.get(KEY, {})
    kept, _, size = str(held.get("pattern", "")).partition(":")
    for name, recorded in held.get("layers", {}).items():
        weight = fetch(program.module, name)
        full = size and bool(((grouped(weight, recorded["axis"], int(size)) != 0).sum(1) > int(kept)).any())
        if int((weight == 0).sum()) < recorded["zeros"] or full:
            raise VerificationError(
                f"'{name}' has lost zeros of its pattern {held['pattern']}",
                "run `retort sparsify` after all other cuts",
            )


def _facts(program: Program, options: SparsifyOptions, layers: dict[str, str]) -> SparsifyFacts:
    recorded = program.meta[KEY]["layers"]
    listed = [
        SparseLayer(name=name, zeros=recorded[name]["zeros"] / recorded[name]["values"], method=method)
        for name, method in layers.items()
    ]
    total = sum(item["zeros"] for item in recorded.values()) / sum(item["values"] for item in recorded.values())
    dense = [
        DenseLayer(name=place.parameter, reason=place.skipped)
        for place in find_places(program, options)
        if place.skipped
    ]
    return SparsifyFacts(pattern=options.pattern, zeros=total, layers=tuple(listed), dense=tuple(dense))
