"""The engine of the handler: every request gets the same answer as alone, and a bad one only its own error."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from retort.core.errors import ArtifactError, VerificationError
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.handlers import tensor
from retort.serve.batching import Executor
from retort.serve.bundles.bundle import Parts, inspect_graph, write_bundle
from retort.serve.engine import Engine
from retort.serve.inference import LOAD_FAILED, Endpoint
from retort.serve.integrity import SUMS, format_sums, read_sums
from retort.serve.requests.replies import refuse
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import JSON, NPY, NPZ, read_npy, read_npz, write_npy, write_npz
from retort.serve.settings import Limits, Settings
from retort.serve.thread_budget import thread_budget

Arrays = dict[str, Any]
RANDOM = np.random.default_rng(0)
KINDS = {"f4": TensorProto.FLOAT, "i8": TensorProto.INT64}
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32) / 4, name)


def _value(name: str, kind: str, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, KINDS[kind], shape)


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def _cnn(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["p", "w", "b"], ["logits"]),
    ]
    weights = [_weights("k", 8, 1, 3, 3), _weights("w", 8, 5), _weights("b", 5)]
    image, logits = _value("image", "f4", ("batch", 1, 6, 6)), _value("logits", "f4", ("batch", 5))
    return _save(path, nodes, [image], [logits], weights)


def _text(path: Path) -> Path:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Unsqueeze", ["mask", "two"], ["m"]),
        helper.make_node("Mul", ["e", "m"], ["s"]),
        helper.make_node("ReduceSum", ["s", "one"], ["pooled"], keepdims=0),
        helper.make_node("ArgMax", ["pooled"], ["best"], axis=1, keepdims=0),
    ]
    axes = [numpy_helper.from_array(np.array([n]), name) for n, name in ((1, "one"), (2, "two"))]
    inputs = [_value("ids", "i8", ("batch", "length")), _value("mask", "f4", ("batch", "length"))]
    outputs = [_value("pooled", "f4", ("batch", 4)), _value("best", "i8", ("batch",))]
    return _save(path, nodes, inputs, outputs, [_weights("table", 10, 4), *axes])


def _dynamic(path: Path) -> Path:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return _save(
        path, nodes, [_value("x", "f4", ("batch", 7))], [_value("y", "f4", ("batch", 3))], [_weights("w", 7, 3)]
    )


def _sequence_first(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    shape = ("length", "batch")
    return _save(path, nodes, [_value("x", "f4", (*shape, 3))], [_value("y", "f4", (*shape, 2))], [_weights("w", 3, 2)])


def _fixed(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _save(path, nodes, [_value("x", "f4", (2, 3))], [_value("y", "f4", (2, 2))], [_weights("w", 3, 2)])


def _bundle(folder: Path, build: Callable[[Path], Path], feeds: Arrays, **options: Any) -> Path:
    model = build(folder.parent / f"{folder.name}.onnx")
    session = open_session(model)
    golden = {f"in.{k}": v for k, v in feeds.items()} | {f"out.{k}": v for k, v in session.run(feeds).items()}
    write_bundle(folder, Parts(model, (), session.signature, golden), Settings(**options))
    return folder


def _images(rows: int) -> Arrays:
    return {"image": RANDOM.normal(size=(rows, 1, 6, 6)).astype(np.float32)}


def _tokens(rows: int, length: int = 5) -> Arrays:
    ids = RANDOM.integers(0, 10, (rows, length))
    return {"ids": ids, "mask": RANDOM.random((rows, length), dtype=np.float32)}


def _ask(feeds: Arrays, **headers: str) -> Incoming:
    return Incoming({"body": write_npz(feeds)}, {"body": NPZ}, headers, "r")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small CNN."""
    return _bundle(tmp_path_factory.mktemp("cnn") / "bundle", _cnn, _images(4))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small embedding model with two inputs and two outputs."""
    return _bundle(tmp_path_factory.mktemp("text") / "bundle", _text, _tokens(3))


@pytest.fixture(scope="module")
def engine(cnn: Path) -> Engine:
    """The CNN, loaded."""
    return Engine.load(cnn)


@pytest.fixture(scope="module")
def reader(text: Path) -> Engine:
    """The embedding model, loaded."""
    return Engine.load(text)


@SLOW
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_answers_equal_the_local_session_bit_for_bit(engine: Engine, cnn: Path, rows: list[int]) -> None:
    """In any batch, each request gets exactly what a local session gives for its rows."""
    local = open_session(cnn / "model.onnx")
    requests = [_images(count) for count in rows]
    answers = engine.answer([_ask(feeds) for feeds in requests])
    for feeds, answer in zip(requests, answers, strict=True):
        expected = local.run(feeds)["logits"]
        assert read_npz(answer.body, Limits())["logits"].tobytes() == expected.tobytes()


def test_requests_do_run_together(reader: Engine) -> None:
    """Eight single samples are one run of the model if the measurement allows it."""
    sizes: list[int] = []
    executor = Executor(_Counting(reader.session, sizes), reader.settings)
    executor.measure(reader.golden[0])
    assert executor.plan.sizes == set(range(1, 9))
    sizes.clear()
    executor.run([reader.signature.validate(_tokens(1)) for _ in range(8)])
    assert sizes == [8]


class _Counting:
    """A session that records the batch sizes of its runs, and fails on request."""

    def __init__(
        self, inner: Any, sizes: list[int], failing: Callable[[Arrays], Exception | None] | None = None
    ) -> None:
        self.inner, self.sizes, self.failing = inner, sizes, failing
        self.signature: Signature = inner.signature
        self.backend: str = inner.backend
        self.providers: tuple[str, ...] = inner.providers

    def run(self, feeds: Mapping[str, Any]) -> Arrays:
        self.sizes.append(self.signature.batch_size(feeds))
        error = self.failing(dict(feeds)) if self.failing else None
        if error is not None:
            raise error
        return dict(self.inner.run(feeds))

    def close(self) -> None:
        self.inner.close()


def test_rows_that_influence_each_other_are_found_and_kept_apart(tmp_path: Path) -> None:
    """Dynamic quantization is found in the graph, and by measurement if nothing states it."""
    golden = {"x": RANDOM.normal(size=(4, 7)).astype(np.float32)}
    folder = _bundle(tmp_path / "bundle", _dynamic, golden)
    assert inspect_graph(folder / "model.onnx") == ((), True)
    engine = Engine.load(folder)
    assert engine.signature.batch_invariant
    assert engine.executor.plan.sizes == {1}
    feeds = [{"x": (10.0**i * RANDOM.normal(size=(1, 7))).astype(np.float32)} for i in range(4)]
    local = open_session(folder / "model.onnx")
    together = local.run({"x": np.concatenate([item["x"] for item in feeds])})["y"]
    for index, answer in enumerate(engine.answer([_ask(item) for item in feeds])):
        expected = local.run(feeds[index])["y"]
        assert read_npz(answer.body, Limits())["y"].tobytes() == expected.tobytes()
    assert not np.array_equal(together[:1], local.run(feeds[0])["y"])


@SLOW
@given(st.lists(st.sampled_from(["good", "index", "shape", "nan", "noise", "type", "none", "huge"]), max_size=12))
def test_one_bad_request_spoils_no_other(reader: Engine, text: Path, kinds: list[str]) -> None:
    """In any mixture, each invalid request gets its own 4xx and each valid one its usual answer."""
    local = open_session(text / "model.onnx")
    requests, expected = [], []
    for kind in kinds:
        feeds = _tokens(2)
        expected.append(local.run(feeds) if kind == "good" else None)
        requests.append(_spoiled(kind, feeds))
    answers = reader.answer(requests)
    assert len(answers) == len(kinds)
    for kind, answer, wanted in zip(kinds, answers, expected, strict=True):
        if wanted is None:
            assert answer.status == {"type": 415, "huge": 413}.get(kind, 400), kind
            assert json.loads(answer.body)["message"]
        else:
            got = read_npz(answer.body, Limits())
            assert all(got[name].tobytes() == wanted[name].tobytes() for name in wanted)


def _spoiled(kind: str, feeds: Arrays) -> Incoming:
    if kind == "index":
        feeds["ids"][0, 0] = 99
    elif kind == "shape":
        feeds["mask"] = feeds["mask"][:, 1:]
    elif kind == "nan":
        feeds["mask"][0, 0] = np.nan
    elif kind == "huge":
        feeds = _tokens(257)
    elif kind == "none":
        return Incoming({})
    elif kind in ("noise", "type"):
        return Incoming({"body": b"\x00\x01"}, {"body": NPZ if kind == "noise" else "image/png"})
    return _ask(feeds)


def test_a_failing_run_is_bisected(engine: Engine) -> None:
    """If the model fails on one of sixteen requests, the others are found in few further runs."""
    sizes: list[int] = []
    feeds = [engine.signature.validate(_images(1)) for _ in range(16)]
    feeds[11]["image"][0, 0, 0, 0] = 1e9

    def failing(given: Arrays) -> Exception | None:
        return RuntimeError("kernel") if given["image"].max() > 1e8 else None

    executor = Executor(_Counting(engine.session, sizes, failing), Settings(batching="fast"))
    results = executor.run(feeds)
    assert [isinstance(result, RuntimeError) for result in results] == [index == 11 for index in range(16)]
    assert len(sizes) <= 1 + 2 * 4


def _last(path: Path) -> Path:
    """Takes one step of each sample; ONNX Runtime fails in the kernel if the index is out of range."""
    nodes = [
        helper.make_node("Unsqueeze", ["at", "one"], ["column"]),
        helper.make_node("GatherElements", ["x", "column"], ["y"], axis=1),
    ]
    inputs = [_value("x", "f4", ("batch", "length")), _value("at", "i8", ("batch",))]
    return _save(
        path, nodes, inputs, [_value("y", "f4", ("batch", 1))], [numpy_helper.from_array(np.array([1]), "one")]
    )


def test_values_that_a_kernel_rejects_are_the_requests_fault(tmp_path: Path) -> None:
    """Whatever class of error ONNX Runtime raises for an index, the request gets a 400 and its neighbours answers."""
    feeds = [{"x": RANDOM.normal(size=(1, 5)).astype(np.float32), "at": np.array([at])} for at in (2, 99, 4)]
    engine = Engine.load(_bundle(tmp_path / "bundle", _last, feeds[0]))
    answers = engine.answer([_ask(item) for item in feeds])
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert json.loads(answers[1].body)["message"] == "the model cannot compute this input"
    assert read_npz(answers[2].body, Limits())["y"].item() == feeds[2]["x"][0, 4]


def test_a_server_that_fails_on_everything_is_at_fault(engine: Engine) -> None:
    """If the known request fails too, or the second try succeeds, no request is blamed."""
    executor = Executor(_Counting(engine.session, []), Settings())
    executor.measure(engine.golden[0])
    feeds = engine.signature.validate(_images(1))
    executor.session = _Counting(engine.session, [], lambda given: RuntimeError("device lost"))
    assert isinstance(executor.run([feeds])[0], RuntimeError)
    errors = [RuntimeError("once")]
    executor.session = _Counting(engine.session, [], lambda given: errors.pop() if errors else None)
    assert isinstance(executor.run([feeds])[0], dict)


def test_memory_errors_halve_once_and_are_remembered(engine: Engine) -> None:
    """A run without enough memory is halved; the smaller limit is kept; further failures are 507."""
    sizes: list[int] = []

    def failing(given: Arrays) -> Exception | None:
        return RuntimeError("Failed to allocate memory for requested buffer") if len(given["image"]) > 8 else None

    executor = Executor(_Counting(engine.session, sizes, failing), Settings(batching="fast"))
    whole = _images(16)
    (got,) = executor.run([whole])
    assert isinstance(got, dict)
    np.testing.assert_array_equal(got["logits"], engine.session.run(whole)["logits"])
    assert sizes == [16, 8, 8]
    sizes.clear()
    executor.run([_images(1) for _ in range(20)])
    assert max(sizes) == 8
    (failed,) = executor.run([_images(40)])
    assert isinstance(failed, MemoryError)
    assert refuse(failed).status == 507


def test_more_rows_than_allowed_run_in_chunks(engine: Engine) -> None:
    """Requests that together exceed the row limit are run in several batches."""
    sizes: list[int] = []
    executor = Executor(_Counting(engine.session, sizes), Settings(batching="fast", limits=Limits(rows=10)))
    results = executor.run([engine.signature.validate(_images(rows)) for rows in (4, 4, 4, 10, 1)])
    assert sizes == [8, 4, 10, 1]
    assert [len(result["logits"]) for result in results if isinstance(result, dict)] == [4, 4, 4, 10, 1]


def test_batches_are_padded_to_buckets_and_cut_again(text: Path) -> None:
    """With buckets, the model gets only their sizes, and the padding is removed from answers."""
    sizes: list[int] = []
    session = open_session(text / "model.onnx")
    executor = Executor(_Counting(session, sizes), Settings(buckets=(4, 16)))
    executor.measure(_tokens(4))
    sizes.clear()
    requests = [_tokens(1) for _ in range(6)]
    results = executor.run(requests)
    assert sizes == [16]
    for feeds, result in zip(requests, results, strict=True):
        assert isinstance(result, dict)
        assert result["pooled"].tobytes() == session.run(feeds)["pooled"].tobytes()


def test_other_shapes_than_the_measured_ones_run_alone(text: Path) -> None:
    """Lengths that were not measured are not assumed to have independent rows."""
    sizes: list[int] = []
    engine = Engine.load(text)
    executor = Executor(_Counting(engine.session, sizes), engine.settings)
    executor.measure(engine.golden[0])
    sizes.clear()
    results = executor.run([_tokens(1, 5), _tokens(1, 9), _tokens(1, 5), _tokens(1, 9)])
    assert sorted(sizes) == [1, 1, 2]
    assert all(isinstance(result, dict) for result in results)


@pytest.mark.parametrize("build", [_fixed, _sequence_first])
def test_models_without_a_leading_batch_axis_are_served(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """A fixed batch, or a batch on another axis, has the same answers as in a local session."""
    shape = (2, 3) if build is _fixed else (5, 2, 3)
    feeds = [{"x": RANDOM.normal(size=shape).astype(np.float32)} for _ in range(3)]
    engine = Engine.load(_bundle(tmp_path / "bundle", build, feeds[0]))
    local = open_session(tmp_path / "bundle" / "model.onnx")
    for item, answer in zip(feeds, engine.answer([_ask(item) for item in feeds]), strict=True):
        assert read_npz(answer.body, Limits())["y"].tobytes() == local.run(item)["y"].tobytes()


def test_describe_and_healthcheck_answer_alone(engine: Engine) -> None:
    """Describe needs a request without parts; healthcheck runs the golden inputs; other headers are ignored."""
    described, health, prediction, unknown = engine.answer(
        [
            Incoming({}, headers={"describe": "True"}),
            Incoming({"body": b""}, headers={"url_path": "healthcheck"}),
            _ask(_images(1), describe="True"),
            Incoming({"body": b""}, headers={"url_path": "shell"}),
        ]
    )
    facts = json.loads(described.body)
    assert facts["model_sha256"] == engine.sums["model.onnx"]
    assert facts["providers"]["actual"] == ["CPUExecutionProvider"]
    assert facts["together"]["exact_batch_sizes"]
    assert json.loads(health.body)["healthy"] is True
    assert json.loads(health.body)["golden_error"] == engine.golden_error
    assert json.loads(health.body)["latency_ms"] > 0
    assert prediction.content_type == NPZ
    assert unknown.status == 404


@pytest.mark.parametrize("name", ["model.onnx", "signature.json", "golden.npz", "serving.json", SUMS])
def test_altered_files_are_refused_at_load(tmp_path: Path, name: str) -> None:
    """If one bit in any file of the bundle is flipped, it is not loaded."""
    folder = _bundle(tmp_path / "bundle", _cnn, _images(2))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name if name != SUMS else "SHA"):
        Engine.load(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Engine.load(folder)


def test_a_model_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """If golden outputs are not reproduced, the load fails."""
    model = _cnn(tmp_path / "m.onnx")
    session, feeds = open_session(model), _images(2)
    wrong = session.run(feeds)["logits"] * 1.1
    golden = {"in.image": feeds["image"], "out.logits": wrong.astype(np.float32)}
    write_bundle(tmp_path / "b", Parts(model, (), session.signature, golden), Settings())
    settings_file = tmp_path / "b" / "serving.json"
    tightened = Settings.from_json(settings_file.read_bytes())
    assert tightened.golden_tolerance == 1.0
    far = {"in.image": feeds["image"], "out.logits": (wrong * 3).astype(np.float32)}
    with pytest.raises(ArtifactError, match="another model"):
        write_bundle(tmp_path / "c", Parts(model, (), session.signature, far), Settings())
    engine = Engine.load(tmp_path / "b")
    content = Settings().to_json()
    settings_file.write_bytes(content)
    sums = {**read_sums(tmp_path / "b"), "serving.json": hashlib.sha256(content).hexdigest()}
    (tmp_path / "b" / SUMS).write_bytes(format_sums(sums))
    with pytest.raises(VerificationError, match=r"golden outputs differ by .* only 0.001 is allowed"):
        Engine.load(tmp_path / "b")
    engine.settings = Settings()
    with pytest.raises(VerificationError, match="golden"):
        engine.self_test()
    assert engine.health().status == 503


def test_threads_stay_within_the_workers_share() -> None:
    """A worker gets the requested threads, but at most its share of the cores, and at least one."""
    assert thread_budget(Settings(threads=8, workers=2), cores=4) == 2
    assert thread_budget(Settings(threads=1, workers=1), cores=4) == 1
    assert thread_budget(Settings(threads=0, workers=8), cores=4) == 1
    assert thread_budget(Settings(threads=0, workers=1), cores=4) == 4


def _context(folder: Path, headers: list[dict[str, Any]]) -> Any:
    context = pytest.importorskip("ts.context", reason="torchserve is not installed")
    made = context.Context("m", str(folder), {}, 8, None, "0.12.0", True, None, {})
    made.request_processor = [context.RequestProcessor(item) for item in headers]
    made.request_ids = {index: f"id{index}" for index in range(len(headers))}
    return made


def test_the_handler_speaks_torchserves_protocol(cnn: Path) -> None:
    """With TorchServe's own context: statuses per index, bytes, content types and ASCII phrases."""
    feeds = _images(1)
    headers = [{"body": {"content-type": kind}, "Accept": "*/*"} for kind in (NPY, JSON, "text/csv")]
    context = _context(cnn, headers)
    assert tensor.handle(None, context) == []
    assert tensor.handle(None, context) == []
    body = json.dumps(feeds["image"].tolist()).encode()
    answers = tensor.handle([{"body": bytearray(write_npy(feeds["image"]))}, {"body": body}, {"body": b"1"}], context)
    expected = open_session(cnn / "model.onnx").run(feeds)["logits"]
    assert read_npy(answers[0], Limits()).tobytes() == expected.tobytes()
    assert np.array(json.loads(answers[1]), np.float32).tobytes() == expected.tobytes()
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 200, 415]
    assert json.loads(answers[2])["request_id"] == "id2"
    assert all(context.get_response_status(index)[1].isascii() for index in range(3))
    assert context.get_response_headers(0) == {"content-type": NPY, "x-retort-outputs": "logits"}


PART = st.none() | st.integers() | st.binary(max_size=20) | st.text(max_size=5) | st.lists(st.floats(), max_size=3)


@SLOW
@given(st.lists(st.dictionaries(st.sampled_from(["body", "data", "image", "x"]), PART, max_size=3), max_size=6))
def test_handle_never_raises_and_answers_every_index(cnn: Path, data: list[dict[str, object]]) -> None:
    """For any input from TorchServe, there is one answer in bytes per request and no server error."""
    context = _context(cnn, [{} for _ in data])
    if tensor._endpoint.engine is None:
        tensor.handle(None, context)
    answers = tensor.handle(data, context)
    assert len(answers) == len(data)
    assert all(isinstance(answer, bytes) for answer in answers)
    assert all(context.get_response_status(index)[0] < 500 for index in range(len(data)))


def test_a_failure_to_load_is_one_readable_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed load becomes a RuntimeError, the only kind that TorchServe reports, with one line."""
    endpoint = Endpoint("1")
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="SHA256SUMS cannot be read"):
        endpoint.handle(None, _context(tmp_path, []))
    (line,) = [record.getMessage() for record in caplog.records if LOAD_FAILED in record.getMessage()]
    assert json.loads(line.partition(LOAD_FAILED)[2])["code"] == "ArtifactError"
    context = _context(tmp_path, [{}])
    assert b"NotReady" in endpoint.handle([{"body": b"1"}], context)[0]
    assert context.get_response_status(0)[0] == 503


def test_logs_hold_no_request_content_and_stay_few(cnn: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand failures of one kind give one line, without any content of the requests."""
    endpoint = Endpoint("1")
    endpoint.initialize(_context(cnn, []))
    engine = endpoint.engine
    assert engine is not None
    broken = _Counting(engine.session, [], lambda feeds: RuntimeError(f"secret {feeds}"))
    engine.executor = Executor(broken, engine.settings)
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            context = _context(cnn, [{"body": {"content-type": NPY}}] * 20)
            answers = endpoint.handle([{"body": write_npy(_images(1)["image"])}] * 20, context)
            assert all(b"secret" not in answer for answer in answers)
    assert [record.getMessage() for record in caplog.records] == ["retort: requests fail: 500 RuntimeError"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{}", "no object with limits"),
        ("[]", "no object with limits"),
        ('{"threads": "2", "limits": {}}', "threads is '2'"),
        ('{"limits": {}, "extra": 1}', "unknown key extra"),
        ('{"limits": {"rows": true}}', "rows is True"),
        ('{"limits": 3}', "no object with limits"),
    ],
)
def test_settings_that_do_not_fit_are_refused(text: str, reason: str) -> None:
    """Unknown keys, wrong types and another contract version are rejected, with the reason."""
    with pytest.raises(ArtifactError, match=rf"serving\.json cannot be read: .*{reason}"):
        Settings.from_json(text)
    assert Settings.from_json(Settings(buckets=(1, 2)).to_json()) == Settings(buckets=(1, 2))
    with pytest.raises(ArtifactError, match="contract"):
        Settings.from_json(Settings(contract=99).to_json())
