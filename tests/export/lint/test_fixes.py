"""Fixes: the fault is gone, NVIDIA's parser accepts the file, and the outputs change only as the rule permits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import graph_generator as graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trt_oracle import Oracle

from retort.__main__ import main
from retort.core.errors import VerificationError
from retort.core.options.stage_options import Target
from retort.export.lint import lint
from retort.export.lint.change import measure_change
from retort.export.lint.fixes import fix

# fault, rule under which it is mended, largest relative change of the outputs, None where ONNX Runtime has no opinion
MENDED = [
    ("unsorted", "Q22", 0.0),
    ("int32 bias", "Q07", 1e-2),
    ("int8 bias", "Q07", 1e-2),
    ("unequal volumes", "Q11", None),
    ("no zero point", "Q03", None),
    ("uint8", "Q02", None),
    ("asymmetric uint8", "Q02", 2e-2),
    ("asymmetric", "Q02", None),
    ("activation per channel", "Q05", None),
    ("wrong axis", "Q06", 5e-2),
    ("code -128", "Q06", 2e-2),
    ("operand of another type", "Q17", None),
    ("foreign domain", "Q14", 0.0),
]


def serious(model: onnx.ModelProto) -> list[str]:
    """Findings that are more than advice."""
    return [str(item) for item in lint(model) if item.verdict != "advice"]


@pytest.mark.parametrize(("fault", "rule", "allowed"), MENDED, ids=[item[0] for item in MENDED])
def test_a_fault_is_fixed(fault: str, rule: str, allowed: float | None) -> None:
    """Fixed graphs have no fault, and compute the same if the fix is exact."""
    found = 0
    for seed in range(120):
        model = graphs.faulty(seed, fault)
        if model is None:
            continue
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        done = fix(fixed)
        assert rule in done, (seed, done)
        assert serious(fixed) == [], seed
        change, obstacle = measure_change(model, fixed)
        if allowed is not None and not obstacle:
            assert max(change.values()) <= allowed, seed
        found += 1
        if found == 3:
            break
    assert found


def test_a_sound_graph_is_not_changed() -> None:
    """A graph without faults is not changed, and its bytes stay the same."""
    for seed in range(20):
        model = graphs.generate(seed).model()
        before = model.SerializeToString(deterministic=True)
        assert fix(model) == {}
        assert model.SerializeToString(deterministic=True) == before


@pytest.mark.trt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_parser_accepts_what_was_fixed() -> None:
    """NVIDIA's parser accepts a graph after the fix that it rejected before."""
    oracle = Oracle()
    for fault in ("asymmetric uint8", "int32 bias", "unequal volumes", "operand of another type"):
        model = next(m for m in (graphs.faulty(seed, fault) for seed in range(100)) if m is not None)
        assert not oracle.ask(model.SerializeToString())["parsed"], fault
        fix(model)
        answer = oracle.ask(model.SerializeToString())
        assert answer["parsed"], (fault, answer)
    oracle.close()


def test_asymmetric_activations_keep_their_numbers() -> None:
    """UINT8 with zero point 128 and INT8 with zero point 0 represent the same numbers."""
    values = {"s": np.float32(0.03), "z": np.uint8(128)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="d"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy"]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "pair", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    assert fix(fixed) == {"Q02": 1}
    assert measure_change(model, fixed) == ({"y": 0.0}, "")


def pair(declared: int, *between: onnx.NodeProto) -> onnx.ModelProto:
    """An activation in UINT8 whose codes are declared with a type; ``between`` reads the codes `q` and gives `c`."""
    values = {"s": np.float32(0.03), "z": np.uint8(128)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        *between,
        helper.make_node("DequantizeLinear", ["c" if between else "q", "s", "z"], ["y"], name="d"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy"]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    types = [helper.make_tensor_value_info("q", declared, ["batch", 64])]
    graph = helper.make_graph(nodes, "pair", ports[:1], ports[1:], stored, value_info=types)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_fixed_codes_lose_their_declared_type() -> None:
    """A file that declares its codes as UINT8 runs after the fix, and computes the same."""
    model = pair(TensorProto.UINT8)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    assert fix(fixed) == {"Q02": 1}
    assert measure_change(model, fixed) == ({"y": 0.0}, "")


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_a_wrong_declaration_is_a_fault(target: Target) -> None:
    """A file that declares another type than a value has is found for every target, and fixed."""
    model = pair(TensorProto.INT8)
    assert [item.rule for item in lint(model, target) if item.rule == "T04"] == ["T04"]
    assert fix(model)["T04"] == 1
    assert [item for item in lint(model, target) if item.rule == "T04"] == []


def test_codes_that_others_read_keep_their_type() -> None:
    """Codes that another operator reads are left as they are, and remain a fault."""
    model = pair(TensorProto.UINT8, helper.make_node("Identity", ["q"], ["c"], name="i"))
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    assert fix(fixed) == {}
    assert "Q02" in {item.rule for item in lint(fixed)}


def test_a_fixed_file_that_does_not_run_is_refused() -> None:
    """A change that ONNX Runtime cannot run is an error that names the export, not a remark."""
    good, broken = pair(TensorProto.UINT8), pair(TensorProto.INT8)
    with pytest.raises(VerificationError, match="the fixed file does not run") as caught:
        measure_change(good, broken)
    assert "--target tensorrt" in caught.value.remedy


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    return int(caught.value.code or 0), json.loads(capsys.readouterr().out)


def test_the_command_lists_and_fixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort lint` exits 5 with the findings; with --fix it writes a file without faults and reports the changes."""
    model = next(m for m in (graphs.faulty(seed, "int32 bias") for seed in range(50)) if m is not None)
    path, mended = tmp_path / "model.onnx", tmp_path / "mended.onnx"
    path.write_bytes(model.SerializeToString())
    code, told = run(capsys, "lint", str(path))
    assert (code, told["faults"] > 0) == (5, True)
    assert {"rule", "node", "message", "remedy", "verdict"} == set(told["findings"][0])
    code, told = run(capsys, "lint", str(path), "--fix", str(mended))
    assert code == 0
    assert told["fix"]["mended"]["Q07"] >= 1
    assert run(capsys, "lint", str(mended))[0] == 0
    assert run(capsys, "lint", str(path), "--target", "cpu", "--no-advice")[0] == 0


def test_what_is_no_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated file is reported in one message."""
    (tmp_path / "model.onnx").write_bytes(b"no model")
    code, told = run(capsys, "lint", str(tmp_path / "model.onnx"))
    assert code == 3
    assert "cannot be read as ONNX" in told["error"]["message"]
