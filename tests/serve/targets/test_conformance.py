"""The conformance suite over real servers of one bundle: TorchServe, Triton's Python backend and Ray Serve."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from other_servers import home, ray, triton
from served_models import require_torchserve

from retort.benchmarks.suites.conformance import MODEL, Outcome, all_cases, counts, differences, judged, markdown, run
from retort.benchmarks.suites.conformance_cases import Case
from retort.benchmarks.suites.conformance_model import write_model
from retort.core.artifact import load_artifact
from retort.core.context import Context, Place
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.options.stage_options import ServeOptions
from retort.serve.bundles.stage import bundle
from retort.serve.targets.stage import deploy
from retort.serve.torchserve.archives.archive import write_archive
from retort.serve.torchserve.server import serve

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data
PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "conformance.md"
BEGIN, END = "<!-- {}:begin -->\n", "<!-- {}:end -->"
# Triton's own reader of JSON: integers beyond a type wrap around, and the last bit of an FP64 may be lost
WRAPPED = [("limits", f"{name}: above its range") for name in ("i8", "i16", "i32", "u8", "u16", "u32")]
MISLEADING = {"Triton": [("values", "f64: many digits"), *WRAPPED]}
REFUSED = {"Triton": [("values", "f64: many digits"), ("types", "f32: whole numbers as INT64")]}
"""What Triton does by itself, before the bundle's code is asked."""
Found = dict[str, dict[tuple[str, str], Outcome]]


def test_the_suite_is_large_and_judges() -> None:
    """There are more than 200 cases, and an answer that misleads a client is told from one that does not."""
    flat = [one for case in all_cases() for one in (case, *case.beside)]
    assert len(flat) >= 200
    good = next(case for case in flat if case.outputs is not None)
    bad = Case("malformed", "x", b"", 400)
    assert judged(bad, 400, b"{}").right
    assert judged(bad, 200, b"{}") == Outcome("200", False, dangerous=True)
    assert judged(good, 500, b"") == Outcome("500", False)
    assert judged(good, 200, b'{"outputs":[]}') == Outcome("wrong outputs", False, dangerous=True)
    assert judged(good, 200, b"") == Outcome("wrong outputs", False, dangerous=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each server answers; all of them serve one bundle."""
    work = tmp_path_factory.mktemp("conformance")
    for name in ("triton", "ray"):
        home(name)
    require_torchserve()
    write_model(work / "model.onnx")
    whole = bundle(BundleOptions(name=MODEL), load_artifact(work / "model.onnx"), Place(work / "bundle"), CONTEXT)
    with ExitStack() as stack:
        archive = write_archive(PackOptions(), whole, Place(work / "archive"))
        server = stack.enter_context(serve(ServeOptions(p99_ms=60_000), archive, logs=work / "logs"))
        answers = {"TorchServe": run(server.url)}
    options = PackOptions(target="triton", p99_ms=60_000)
    with triton(deploy(options, whole, Place(work / "t"), CONTEXT).path / "python-backend", work) as url:
        answers["Triton"] = run(url)
    with ray(deploy(PackOptions(target="ray", p99_ms=60_000), whole, Place(work / "r"), CONTEXT), work) as (url, _):
        answers["Ray Serve"] = run(url)
    return answers


@pytest.mark.slow
@pytest.mark.servers
def test_no_server_misleads_a_client(found: Found) -> None:
    """No server gives outputs that are not those of a local session bit for bit, or an answer to a bad request."""
    misled = {name: [key for key, one in outcomes.items() if one.dangerous] for name, outcomes in found.items()}
    assert misled == {name: MISLEADING.get(name, []) for name in found}


@pytest.mark.slow
@pytest.mark.servers
def test_good_requests_are_answered_everywhere(found: Found) -> None:
    """Every server answers every good request, also among bad ones."""
    good = [(one.group, one.name) for case in all_cases() for one in (case, *case.beside) if one.outputs is not None]
    refused = {name: [key for key in good if not outcomes[key].right] for name, outcomes in found.items()}
    assert refused == {name: REFUSED.get(name, []) for name in found}


@pytest.mark.slow
@pytest.mark.servers
def test_the_page_has_what_was_found(found: Found) -> None:
    """The tables of docs/benchmarks/conformance.md are those of this run; RETORT_WRITE_PAGES writes them."""
    text = PAGE.read_text()
    made = text
    for name, rows in {"counts": counts(found), "differences": differences(found)}.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = made.partition(begin)
        made = f"{head}{begin}{markdown(*rows)}\n{end}{rest.partition(end)[2]}"
    if "RETORT_WRITE_PAGES" in os.environ:
        PAGE.write_text(made)
    assert made == PAGE.read_text()
