"""The table of the tools whose results can be imported, and how their files are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from ...core.counts import listed
from ...core.errors import ArtifactError, MissingFileError, UserError
from .command_timers import hyperfine, pyperf
from .litert_logs import TIMINGS, benchmark_model
from .loadgen_logs import MARK, loadgen_detail, loadgen_summary
from .onnxruntime_files import ROW, perf_test_rows, perf_test_text, session_profile
from .openvino_reports import benchmark_app_csv, benchmark_app_json, benchmark_app_text
from .peer_result import PeerResult, PeerRun, packed
from .perf_analyzer import perf_analyzer_csv, perf_analyzer_profile
from .trtexec_files import trtexec_log, trtexec_times

Peer = Literal[
    "trtexec", "loadgen", "perf_analyzer", "hyperfine", "pyperf", "ort-perf-test", "ort-profile", "benchmark_app",
    "benchmark_model",
]  # fmt: skip
Parse = Callable[[str, str], tuple[str, list[PeerRun]]]
Looks = Callable[[str], bool]
MAX_BYTES = 1 << 30


def _has(*marks: str) -> Looks:
    return lambda text: all(mark in text for mark in marks)


def _json_with(*marks: str) -> Looks:
    return lambda text: text.lstrip()[:1] in ("{", "[") and all(f'"{mark}"' in text for mark in marks)


def _begins(*marks: str) -> Looks:
    return lambda text: text.lstrip().startswith(marks)


def _rows(text: str) -> bool:
    return ROW.fullmatch(text.lstrip().partition("\n")[0].rstrip("\r")) is not None


FORMS: tuple[tuple[Peer, Looks, Parse | None], ...] = (
    ("loadgen", _begins(MARK), loadgen_detail),
    ("loadgen", _has("MLPerf Results Summary"), loadgen_summary),
    ("trtexec", _json_with("latencyMs"), trtexec_times),
    ("hyperfine", _json_with("results", "command", "times"), hyperfine),
    ("pyperf", _json_with("benchmarks", "runs", "perf_version"), pyperf),
    ("perf_analyzer", _json_with("experiments", "response_timestamps"), perf_analyzer_profile),
    ("benchmark_app", _json_with("execution_results"), benchmark_app_json),
    ("ort-profile", _json_with("cat", "ph", "dur"), session_profile),
    ("benchmark_model", lambda text: TIMINGS in text or "Log parameter values verbosely" in text, benchmark_model),
    ("benchmark_app", _begins("Command line parameters"), benchmark_app_csv),
    ("benchmark_app", _has("[Step 1/11]"), benchmark_app_text),
    ("ort-perf-test", lambda text: "Session creation time cost" in text, perf_test_text),
    ("ort-perf-test", _rows, perf_test_rows),
    ("perf_analyzer", lambda text: "Inferences/Second" in text.lstrip().partition("\n")[0], perf_analyzer_csv),
    ("trtexec", lambda text: "trtexec" in text or "GPU Compute Time: min" in text, None),
)
"""Each form of a file: its tool, what it looks like, and its reader; trtexec's log is read from its path."""


def import_file(path: Path, peer: Peer | Literal["auto"] = "auto") -> PeerResult:
    """Read the file of another benchmark tool.

    Args:
        peer: the tool that wrote it; ``auto`` finds out.

    Raises:
        MissingFileError: the file does not exist.
        UserError: it is of none of the known forms.
        ArtifactError: it is cut off, was edited, or is not of the tool.
    """
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}", "give the file that the tool wrote")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is larger than 1 GiB", "export a shorter run")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path.name} is no text file", "give the text, CSV or JSON file of the tool") from error
    found = next(((tool, parse) for tool, looks, parse in FORMS if peer in ("auto", tool) and looks(text)), None)
    if found is None and peer == "auto":
        raise UserError(f"{path.name} is of none of the known forms", f"known tools: {listed(get_args(Peer))}")
    if found is None:
        raise ArtifactError(f"{path.name} is no whole file of {peer}", "export it again, or leave out --from")
    tool, parse = found
    try:
        version, runs = trtexec_log(text, path.name, path) if parse is None else parse(text, path.name)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ArtifactError(
            f"{path.name} is no whole, unaltered file of {tool} ({reason})", "export it again"
        ) from error
    return PeerResult(
        tool=tool,
        version=version,
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        runs=tuple(runs),
        original=packed(content),
    )
