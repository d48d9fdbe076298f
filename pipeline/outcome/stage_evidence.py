"""What the report tells about every stage of a run, from the facts of its artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...benchmarks.stage_details import Curve, FloatLayer, OutputNoise, Proof, StageDetails
from ...core.artifact import Artifact
from ...core.counts import counted, listed
from ...core.facts.export_facts import ExportFacts
from ...core.facts.measurement_facts import ServeFacts
from ...core.facts.pack_facts import BundleFacts
from ...core.facts.program_facts import CaptureFacts, Epoch, TrainFacts
from ...core.facts.prune_facts import PruneFacts, PruneStep, SparsifyFacts
from ...core.facts.quantize_facts import Fidelity, QuantizeFacts
from .doubts import doubt_of_stage

if TYPE_CHECKING:
    from ..line import Line

_BUDGETS = {"macs": "multiply-accumulates", "parameter_bytes": "bytes of the parameters"}
EQUAL_DB = 300.0
"""The ratio that stands for equal outputs in the facts of an export."""


def evidence(line: Line) -> list[StageDetails]:
    """Every finished stage of a run with its options and its evidence."""
    chosen = {name: options.model_dump(mode="json", exclude_unset=True) for name, options in line.plan}
    return [
        details(name, artifact, chosen.get(name, {}))
        for name, artifact in line.outcome.artifacts.items()
        if name not in ("bench", "report")
    ]


def details(name: str, artifact: Artifact, chosen: Mapping[str, Any]) -> StageDetails:
    """What one stage did.

    Args:
        name: name of the stage.
        chosen: the options that the recipe sets.
    """
    about = _ABOUT.get(name)
    more = {} if about is None else about(artifact)
    return StageDetails(stage=name, key=artifact.key, options=artifact.manifest.options, chosen=dict(chosen), **more)


def _capture(artifact: Artifact) -> dict[str, Any]:
    return {"did": artifact.facts_as(CaptureFacts).notes or ()}


def _train(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(TrainFacts)
    return {
        "did": (f"Warning: {facts.doubt}",) if facts.doubt else (),
        "curves": tuple(_curves([(artifact.manifest.stage, facts.history)])),
    }


def _prune(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(PruneFacts)
    budget = _BUDGETS.get(facts.budget, facts.budget)
    kept = f"{facts.got:.1%} of the {budget} are left ({facts.asked:.0%} were asked for)"
    did = [f"{kept}; {counted(facts.groups, 'group')} of channels could be cut, {len(facts.locked)} could not"]
    did += [
        f"“{group.name}” keeps its {counted(group.channels, 'channel')}: {_clause(group.reason)}"
        for group in facts.locked
    ]
    if facts.latency is not None:
        did.append(
            f"{facts.latency.got_ms:.3g} ms instead of {facts.latency.dense_ms:.3g} ms at batch {facts.latency.batch} "
            f"({facts.latency.asked_ms:.3g} ms were asked for: {facts.latency.verdict})"
        )
    ruined = doubt_of_stage("prune", artifact)
    did += [f"Warning: {ruined}"] if ruined else []
    names = [f"cut {index}" if len(facts.steps) > 1 else "cut" for index in range(1, len(facts.steps) + 1)]
    proofs = [proof for name, step in zip(names, facts.steps, strict=True) for proof in _cut_proofs(name, step)]
    trained = [
        (f"recovery after {name}" if len(facts.steps) > 1 else "recovery", step.recovery.history)
        for name, step in zip(names, facts.steps, strict=True)
        if step.recovery
    ]
    noise = [] if facts.fidelity is None else _noise(facts.fidelity, "pruned program against the program before")
    return {
        "did": tuple(did),
        "proofs": tuple(proofs),
        "curves": tuple(_curves(trained)),
        "outputs": tuple(noise),
    }


def _cut_proofs(name: str, step: PruneStep) -> Iterable[Proof]:
    batches = listed(step.proof.batches)
    yield Proof(
        claim=f"{name}: the cut program computes what the masked program computes, in {step.proof.dtype}",
        found=f"{_error(step.proof.relative_error, 'relative error')} at batch {batches}",
    )
    file = step.file
    found = f"not compared: {file.reason}" if file.error is None else _error(file.error, "relative error")
    yield Proof(claim=f"{name}: so does its ONNX file in ONNX Runtime", found=found)


def _sparsify(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(SparsifyFacts)
    dense = tuple(f"“{layer.name}” stays dense: {layer.reason}" for layer in facts.dense)
    trained = [("recovery", facts.recovery.history)] if facts.recovery else []
    did = f"{facts.zeros:.1%} zeros in {counted(facts.layers, 'weight')}, pattern {facts.pattern}"
    return {"did": (did, *dense), "curves": tuple(_curves(trained))}


def _quantize(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(QuantizeFacts)
    floating = [FloatLayer(layer=node.layer, operator=node.op, reason=node.reason) for node in facts.float_nodes]
    named = {layer.layer for layer in floating}
    faster = (facts.float_for_speed or {}).items()
    floating += [FloatLayer(layer=name, operator="", reason=why) for name, why in faster if name not in named]
    did = [f"activation ranges by {facts.method}, for {facts.target}"]
    did += [facts.not_timed] if facts.not_timed else []
    did += [f"form: {facts.form.kept}, because {facts.form.why}"] if facts.form else []
    did += [
        f"correction “{item.rung}” {'kept' if item.kept else 'dropped'}: {_db(item.before_db)} → {_db(item.after_db)}"
        f" ({item.detail})"
        for item in facts.correction or ()
    ]
    tried = facts.floor.tried if facts.floor else ()
    did += [f"remedy {'kept' if item.kept else 'tried'}: {item.remedy}" for item in tried]
    trained = [("quantization-aware training", facts.qat.history)] if facts.qat else []
    return {
        "did": tuple(did),
        "integer": facts.quantized_nodes,
        "integer_macs_percent": facts.integer_macs_percent,
        "floating": tuple(floating),
        "outputs": tuple(_noise(facts.against_fp32, "INT8 program against FP32 program")),
        "proofs": tuple(_floor_proof(facts)),
        "curves": tuple(_curves(trained)),
    }


def _floor_proof(facts: QuantizeFacts) -> Iterable[Proof]:
    floor = facts.floor
    if floor is None:
        return
    found = facts.against_fp32.describe()
    if not floor.met:
        found += f"; accepted although {floor.shortfall}" if floor.accepted else f"; {floor.shortfall}"
    bound = f"at least {floor.sqnr_db:g} dB, {floor.agreement:.0%} equal classes"
    yield Proof(claim="INT8 does not ruin the model, on held-out samples", found=found, bound=bound)


def _export(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(ExportFacts)
    did = [f"opset {facts.opset}, {counted(facts.nodes, 'node')}, for {facts.target}"]
    if facts.kernels is not None:
        heavy = facts.kernels.integer_heavy + facts.kernels.floating_heavy
        did.append(f"{facts.kernels.integer_heavy} of {counted(heavy, 'heavy node')} run in integer kernels")
        names = [*facts.kernels.floating_names, *facts.kernels.unfused_names]
        did += [f"in floating-point kernels: {listed(names)}"] if names else []
    did += [facts.recurrent] if facts.recurrent else []
    kept = facts.half.kept_fp32 if facts.half else {}
    floating = [FloatLayer(layer=name, operator="", reason=reason) for name, reason in kept.items()]
    compared = "ONNX file against the program"
    worst = {entry.output: entry for entry in sorted(facts.parity, key=lambda entry: -entry.sqnr_db)}
    noise = [
        OutputNoise(
            output=name,
            compared=compared,
            sqnr_db=None if entry.sqnr_db >= EQUAL_DB else round(entry.sqnr_db, 2),
            agreement=entry.agreement,
        )
        for name, entry in sorted(worst.items())
    ]
    return {
        "did": tuple(did),
        "floating": tuple(floating),
        "outputs": tuple(noise),
        "proofs": tuple(_parity_proofs(facts)),
    }


def _parity_proofs(facts: ExportFacts) -> Iterable[Proof]:
    if facts.parity:
        worst = max(facts.parity, key=lambda entry: entry.error / max(entry.tolerance, 1e-30))
        sizes = listed(sorted({entry.batch_size for entry in facts.parity}))
        yield Proof(
            claim=f"the ONNX file computes what the program computes, at batch {sizes}",
            found=f"largest error {worst.error:.1e} of the range of '{worst.output}'",
            bound=f"{worst.tolerance:.1e}",
        )
    hard = facts.hard_inputs or ()
    if hard:
        worst_hard = max(hard, key=lambda item: item.share)
        yield Proof(
            claim=f"also on {counted(hard, 'kind')} of hard inputs, such as {listed(item.inputs for item in hard[:2])}",
            found=f"{worst_hard.share:.2g} of the allowed difference, on {worst_hard.inputs}",
            bound="1, or the program's own unsteadiness",
        )


def _pack(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(BundleFacts)
    if facts.golden_error is None:
        return {"proofs": (Proof(claim="the packed model gives its golden outputs", found="not tried: no GPU for it"),)}
    sizes = _range(facts.exact_batch_sizes)
    rows = f"bit for bit at batch {sizes}" if sizes else "not bit for bit"
    return {
        "proofs": (
            Proof(claim="the packed model gives its golden outputs", found=_error(facts.golden_error)),
            Proof(claim="each row of a batch equals its result alone", found=rows),
        )
    }


def _serve(artifact: Artifact) -> dict[str, Any]:
    facts = artifact.facts_as(ServeFacts)
    found = "equal bit for bit" if facts.bit_identical else "not equal"
    claim = f"the endpoint answers what the local session computes, on {counted(facts.samples, 'sample')}"
    return {"proofs": (Proof(claim=claim, found=found),)}


_ABOUT: dict[str, Callable[[Artifact], dict[str, Any]]] = {
    "capture": _capture,
    "train": _train,
    "distill": _train,
    "prune": _prune,
    "sparsify": _sparsify,
    "quantize": _quantize,
    "export": _export,
    "bundle": _pack,
    "pack": _pack,
    "serve": _serve,
}


def _error(value: float, what: str = "error") -> str:
    return f"largest {what} {value:.1e}" if value else "equal"


def _noise(found: Fidelity, compared: str) -> list[OutputNoise]:
    """The ratio of every output, or of all together if there is only one; the agreement is that of all outputs."""
    each = found.per_output_db or {"all outputs": found.sqnr_centred_db}
    if "sqnr_centred_db" not in found.model_fields_set:
        return []
    return [
        OutputNoise(
            output=name, compared=compared, sqnr_db=value, agreement=None if found.per_output_db else found.agreement
        )
        for name, value in each.items()
    ]


def _curves(trainings: Iterable[tuple[str, Sequence[Epoch]]]) -> Iterable[Curve]:
    for name, history in trainings:
        epochs = tuple(
            {key: float(value) for key, value in epoch.to_json().items() if value is not None} for epoch in history
        )
        if epochs:
            yield Curve(name=name, epochs=epochs)


def _clause(reason: str) -> str:
    """A reason that begins with its verb, as a clause."""
    return f"it {reason}" if reason.split(" ")[0] in ("is", "has") else reason


def _range(sizes: Sequence[int]) -> str:
    """``1 to 8`` for consecutive sizes."""
    ordered = sorted(sizes)
    whole = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if whole else listed(ordered)


def _db(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"
