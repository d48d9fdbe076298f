"""Keys cover the code that makes an artifact and everything else that determines it, and nothing else."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retort.core.artifact import Artifact, Manifest
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.distill_losses import FunctionOptions
from retort.core.options.serving_options import PackOptions
from retort.core.options.stage_options import (
    CaptureOptions,
    DistillOptions,
    ExportOptions,
    ModelSpec,
    PruneOptions,
    QuantizeOptions,
    RecoverOptions,
    TrainOptions,
)
from retort.core.options.stage_table import STAGES
from retort.pipeline import stages
from retort.pipeline.cache_key import code_hash, code_version, key_of
from retort.pipeline.import_graph import PRESENTATION, imports_of, reach
from retort.serve.bundles.runtime_half import runtime_half

ROOT = Path(__file__).resolve().parents[2]
ON_ARTIFACTS = tuple(entry.name for entry in STAGES.values() if entry.takes is not None)
SPLIT = ArraySplit({"x": np.zeros((4, 3), np.float32)}, np.zeros(4, np.int64))
CONTEXT = Context(Splits(SPLIT, SPLIT, SPLIT, SPLIT))
PARENT = Artifact(Path("parent"), Manifest("program", "train", "parent"))

CHANGED = {
    "compress/capture/capture.py": {"capture", "distill"},
    "compress/capture/capture_program.py": {"capture", "distill"},
    "compress/capture/embedding_bag.py": {"capture", "train", "distill", "prune", "sparsify", "quantize"},
    "compress/onnx_import/recurrent_operators.py": {"capture", "distill"},
    "compress/training/loop.py": {"train", "distill", "prune", "sparsify", "quantize"},
    "compress/pruning/coupling/coupler.py": {"distill", "prune"},
    "compress/pruning/coupling/rules.py": {"distill", "prune"},
    "compress/pruning/selection/importance.py": {"distill", "prune"},
    "compress/pruning/sparsity/sparsegpt.py": {"sparsify"},
    "compress/quantization/calibration/observers.py": {"quantize"},
    "core/backends/ort.py": {"capture", "distill", "prune", "quantize", "export", "bundle", "pack", "engine"},
    "core/facts/engine_facts.py": {"engine"},
    "core/facts/prune_facts.py": {"distill", "prune", "sparsify"},
    "core/session.py": {"capture", "distill", "prune", "quantize", "export", "bundle", "pack", "engine"},
    "export/translate.py": {"prune", "quantize", "export"},
    "export/lint/fixes.py": set(),
    "export/trt/builder.py": {"engine"},
    "serve/requests/bodies.py": {"bundle", "pack"},
    "serve/bundles/routes.py": {"bundle", "pack"},
    "serve/signing/ed25519.py": {"bundle", "pack"},
    "serve/torchserve/server.py": set(),
    "handlers/tensor.py": {"pack"},
    "benchmarks/report/html_report.py": set(),
    "benchmarks/timing/latency.py": {"prune", "quantize"},
    "benchmarks/report/report.html.jinja": set(),
    "pipeline/tuning/quantization_form.py": {"quantize"},
    "cli/commands.py": set(),
    "core/console.py": set(),
}
"""The stages whose results an edit of a file can change, a file or more of every room."""


def modules() -> Iterator[Path]:
    """Every module of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if not parts[0].startswith(".") and parts[0] not in ("tests", "build", "runs"):
            yield path


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that may be edited."""
    folder = tmp_path_factory.mktemp("package")
    for path in [*modules(), *ROOT.glob("benchmarks/**/*.jinja")]:
        (folder / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.relative_to(ROOT))
    return folder


def hashes(root: Path) -> dict[str, str]:
    """The code version of every stage of a package."""
    code_hash.cache_clear()
    return {name: code_hash(root, f"pipeline/stages.py:{name}") for name in ON_ARTIFACTS}


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, str]:
    """The code versions before any edit."""
    return hashes(copy)


@pytest.fixture(scope="module")
def covered() -> dict[str, set[str]]:
    """The files that count for the key of each stage."""
    return {name: set(reach(ROOT, f"pipeline/stages.py:{name}").files) for name in ON_ARTIFACTS}


@pytest.mark.parametrize("file", sorted(CHANGED))
def test_a_file_counts_for_the_stages_that_can_run_it(covered: dict[str, set[str]], file: str) -> None:
    """A file is among those of all stages that can run it, and of no other stage."""
    assert (ROOT / file).is_file()
    assert {name for name, files in covered.items() if file in files} == CHANGED[file]


@pytest.mark.parametrize("file", ["export/translate.py", "benchmarks/report/report.html.jinja"])
def test_an_edit_changes_the_keys_for_which_the_file_counts(copy: Path, before: dict[str, str], file: str) -> None:
    """An edited file changes the keys of the stages for which it counts, and of no other stage."""
    path = copy / file
    original = path.read_text()
    path.write_text(original + "\n# edited\n")
    try:
        after = hashes(copy)
    finally:
        path.write_text(original)
    assert {name for name in ON_ARTIFACTS if before[name] != after[name]} == CHANGED[file]


def test_the_part_of_a_stage_in_the_common_file_counts_for_it_alone(copy: Path, before: dict[str, str]) -> None:
    """An edit in the function of one stage changes only the key of that stage."""
    path = copy / "pipeline/stages.py"
    original = path.read_text()
    path.write_text(
        original.replace("from ..export.trt.stage import engine as stage\n", "from ..export.trt import stage\n")
    )
    try:
        after = hashes(copy)
    finally:
        path.write_text(original)
    assert {name for name in ON_ARTIFACTS if before[name] != after[name]} == {"engine"}


def test_the_reader_of_imports_finds_what_the_syntax_tree_has() -> None:
    """The fast reader finds every import in the syntax tree of every module, except those for type checkers."""
    wrong = {}
    for path in modules():
        text = path.read_text()
        found = imports_of(text)
        ours = {(level, module, name) for level, module, names in found.ours for name in names or ("",)}
        if (ours, found.foreign) != (truth := _by_tree(text)):
            wrong[path.relative_to(ROOT).as_posix()] = (ours ^ truth[0], found.foreign ^ truth[1])
    assert wrong == {}


def _by_tree(text: str) -> tuple[set[tuple[int, str, str]], frozenset[str]]:
    ours: set[tuple[int, str, str]] = set()
    foreign: set[str] = set()
    queue: list[ast.AST] = [ast.parse(text)]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            queue += node.orelse
            continue
        queue += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.level:
            ours |= {(node.level, node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "retort":
            ours |= {(0, (node.module or "").partition(".")[2], alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            foreign.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            own = {alias.name for alias in node.names if alias.name.split(".")[0] == "retort"}
            ours |= {(0, name.partition(".")[2], "") for name in own}
            foreign |= {alias.name.split(".")[0] for alias in node.names if alias.name not in own}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            foreign |= {
                arg.value.split(".")[0]
                for arg in node.args[:1]
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return ours, frozenset(foreign)


@pytest.mark.parametrize(
    ("stage", "module"), [("export", "export.stage"), ("pack", "serve.torchserve.archives.archive")]
)
def test_what_a_stage_loads_is_covered(stage: str, module: str) -> None:
    """Every module of Retort that is loaded with the code of a stage is among the files of its key."""
    code = (
        f"import sys, retort.{module}\n"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('retort.') and m.__file__])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    files = {Path(file).resolve().relative_to(ROOT).as_posix() for file in loaded}
    assert len(files) > 10
    covered = set(reach(ROOT, f"pipeline/stages.py:{stage}").files)
    assert files - {"__init__.py", *PRESENTATION} <= covered
    if stage == "pack":  # what an archive carries is read, not imported
        assert {*runtime_half(), "handlers/tensor.py", "serve/torchserve/archives/without_torch.py"} <= covered


def test_one_formula_for_commands_and_recipes() -> None:
    """Equal inputs give equal keys; another value of any input gives another key."""
    base = key_of("quantize", QuantizeOptions(), [PARENT], CONTEXT)
    assert base == key_of("quantize", QuantizeOptions(), [PARENT], replace(CONTEXT, scratch=Path("elsewhere")))
    other = ArraySplit({"x": np.ones((4, 3), np.float32)}, np.zeros(4, np.int64))
    keys = {
        base,
        key_of("quantize", QuantizeOptions(samples=7), [PARENT], CONTEXT),
        key_of("quantize", QuantizeOptions(), [replace(PARENT, manifest=Manifest("program", "train", "x"))], CONTEXT),
        key_of("quantize", QuantizeOptions(), [PARENT], replace(CONTEXT, seed=1)),
        key_of("quantize", QuantizeOptions(), [PARENT], replace(CONTEXT, task="regression")),
        key_of("quantize", QuantizeOptions(), [PARENT], replace(CONTEXT, target="tensorrt")),
        key_of("quantize", QuantizeOptions(), [PARENT], replace(CONTEXT, data=Splits(other, SPLIT, SPLIT, SPLIT))),
    }
    assert len(keys) == 7


def test_only_what_a_stage_depends_on_counts() -> None:
    """Training does not depend on the target, nor packing on the data."""
    for target in ("cpu", "tensorrt"):
        moved = replace(CONTEXT, target=target)
        assert key_of("train", TrainOptions(), [PARENT], moved) == key_of("train", TrainOptions(), [PARENT], CONTEXT)
    named = ExportOptions(target="cpu")
    assert key_of("export", named, [PARENT], replace(CONTEXT, target="tensorrt")) == key_of(
        "export", named, [PARENT], CONTEXT
    )
    assert key_of("pack", PackOptions(), [PARENT], replace(CONTEXT, seed=3)) == key_of(
        "pack", PackOptions(), [PARENT], CONTEXT
    )


def test_files_that_options_name_count_with_their_content(tmp_path: Path) -> None:
    """A plan, a module, a loss, a handler, a tokenizer and weights are other inputs after an edit."""
    context = replace(CONTEXT, base=tmp_path)
    files = {name: tmp_path / name for name in ("plan.yaml", "mine.py", "weights.safetensors", "own.py", "inner.py")}
    student = ModelSpec(source="mine:small", weights="weights.safetensors")
    recover = RecoverOptions(losses=(FunctionOptions(loss="inner:loss"),))
    cases = {
        "plan.yaml": ("quantize", QuantizeOptions(plan="plan.yaml"), PARENT),
        "mine.py": ("prune", PruneOptions(latency=0.5, timer="mine:time"), PARENT),
        "weights.safetensors": ("distill", DistillOptions(student=student), PARENT),
        "own.py": ("distill", DistillOptions(student=student, losses=(FunctionOptions(loss="own:loss"),)), PARENT),
        "inner.py": (
            "prune",
            PruneOptions(latency=0.5, recover=recover),
            PARENT,
        ),
    }
    for path in files.values():
        path.write_text("a = 1\n")
    for name, (stage, options, parent) in cases.items():
        before = key_of(stage, options, [parent], context)
        files[name].write_text("a = 2\n")
        assert key_of(stage, options, [parent], context) != before
    (tmp_path / "bert").mkdir()
    for name, given in (
        ("own.py", PackOptions(handler="own.py")),
        ("bert/tokenizer.json", PackOptions(processor="bert")),
    ):
        keys = set()
        for content in ("a = 1\n", "a = 2\n"):
            (tmp_path / name).write_text(content)
            keys.add(key_of("pack", given, [PARENT], context))
        assert len(keys) == 2, name
    before = key_of("capture", CaptureOptions(), [student], context)
    files["mine.py"].write_text("a = 3\n")
    assert key_of("capture", CaptureOptions(), [student], context) != before


def test_every_stage_of_the_table_that_takes_something_has_its_function() -> None:
    """The table and the functions agree, and each function has options, parent, place and context as parameters."""
    for name in ON_ARTIFACTS:
        function = getattr(stages, name)
        code = function.__code__
        assert code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] == (
            "options",
            "parent",
            "place",
            "context",
        )
        assert len(code_version(function)) == 64
