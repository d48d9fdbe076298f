"""The public interface: names are loaded lazily, help texts are complete, and examples run."""

from __future__ import annotations

import doctest
import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_overloads, get_type_hints

import pytest
from known import known

import retort
from retort import api
from retort.__main__ import main
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.options.stage_options import (
    BenchOptions,
    DistillOptions,
    EngineOptions,
    ExportOptions,
    ModelSpec,
    Options,
    PruneOptions,
    QuantizeOptions,
    SparsifyOptions,
    TrainOptions,
)
from retort.pipeline.live import arguments
from retort.pipeline.live.capturing import CaptureRequest

OPTIONS: dict[str, tuple[type[Options], tuple[str, ...]]] = {
    "capture": (CaptureRequest, ()),
    "train": (TrainOptions, ()),
    "distill": (DistillOptions, ("student",)),
    "prune": (PruneOptions, ("seed",)),
    "sparsify": (SparsifyOptions, ()),
    "quantize": (QuantizeOptions, ()),
    "export": (ExportOptions, ("target",)),
    "engine": (EngineOptions, ()),
    "bundle": (BundleOptions, ()),
    "pack": (PackOptions, ()),
    "compare": (BenchOptions, ()),
}
VERBS = [*OPTIONS, "explain", "load", "open_session"]


def run(code: str) -> str:
    """The output of a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_there_before_anything_is_loaded() -> None:
    """`dir(retort)` lists every public name, and does not load the interface or torch."""
    code = "import sys, retort; print(set(retort.__all__) <= set(dir(retort)), 'retort.api' in sys.modules)"
    assert run(code) == "True False"


def test_root_and_face_publish_the_same_names() -> None:
    """The root package publishes the same names as the interface, and every name exists."""
    assert retort.__all__ == api.__all__
    assert all(getattr(retort, name) is getattr(api, name) for name in retort.__all__)


def test_unknown_names_are_refused_as_python_does() -> None:
    """An unknown name of the package is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = retort.prunes


@pytest.mark.parametrize("first", ["import retort.export", "import retort", "from retort.export import lint"])
def test_a_folder_does_not_hide_a_function(first: str) -> None:
    """`retort.export` is both the function and the folder of that name, whichever is imported first."""
    code = f"{first}\nimport retort, retort.export.verify.parity as p\nimport retort.export.finalize\n"
    code += "print(retort.export is retort.api.export, p.__name__, retort.export.finalize.__name__)"
    assert run(code) == "True retort.export.verify.parity retort.export.finalize"


@pytest.mark.parametrize("verb", OPTIONS)
def test_keyword_arguments_are_the_options(verb: str) -> None:
    """Editors see exactly the fields of a stage's options, and so does `inspect.signature`."""
    options, own = OPTIONS[verb]
    wanted = set(options.model_fields) - set(own)
    typed = set(get_type_hints(getattr(arguments, f"{verb.capitalize()}Arguments")))
    shown = inspect.signature(getattr(api, verb)).parameters
    assert typed == wanted
    assert wanted <= set(shown)
    for name in wanted:
        field = options.model_fields[name]
        if not isinstance(field.get_default(call_default_factory=True), Options):
            assert shown[name].default == field.get_default(call_default_factory=True)


@pytest.mark.parametrize("verb", ["train", "prune", "sparsify", "quantize"])
def test_overloads_take_what_the_verb_takes(verb: str) -> None:
    """The overloads, which declare that a program gives a program, have every keyword of the function."""
    typed = get_type_hints(getattr(arguments, f"{verb.capitalize()}Call"))
    assert set(typed) == set(inspect.signature(getattr(api, verb)).parameters) - {"program"}
    assert len(get_overloads(getattr(api, verb))) == 3


@pytest.mark.parametrize("verb", OPTIONS)
def test_types_for_editors_take_the_defaults(verb: str) -> None:
    """The default of every option has the type that is declared for editors."""
    options, own = OPTIONS[verb]
    hints = get_type_hints(getattr(arguments, f"{verb.capitalize()}Arguments"))
    for name in set(options.model_fields) - set(own):
        default = options.model_fields[name].get_default(call_default_factory=True)
        if default is None:
            assert type(None) in getattr(hints[name], "__args__", ()), name


def test_capture_describes_a_model_as_recipes_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Weights and arguments of a model have the same description in scripts, on the command line and in recipes."""
    for name in set(CaptureRequest.model_fields) & set(ModelSpec.model_fields):
        assert CaptureRequest.model_fields[name].description == ModelSpec.model_fields[name].description
    with pytest.raises(SystemExit):
        main(["capture", "--help"])
    shown = re.sub(r"[\s│]|<str>", "", capsys.readouterr().out)
    for name in ("source", "weights"):
        assert re.sub(r"[\s`]", "", known(ModelSpec.model_fields[name].description)) in shown


@pytest.mark.parametrize("verb", VERBS)
def test_help_reads_well(verb: str) -> None:
    """Help has a summary, the arguments, the result and the exceptions; options have their defaults."""
    text = pydoc.render_doc(getattr(api, verb), renderer=pydoc.TextDoc())
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in text, section
    assert "Unpack" not in text
    assert "PydanticUndefined" not in text
    if verb in OPTIONS:
        assert "Options:" in text
        options, own = OPTIONS[verb]
        assert all(f"{name}: " in text for name in set(options.model_fields) - set(own))
    assert all(len(line) <= 160 for line in text.splitlines()[3:])


NEEDS_TENSORRT = [pytest.mark.trt, pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")]


LONG = ("compare", "distill", "prune")
MARKS: dict[str, Any] = {"engine": NEEDS_TENSORRT, **dict.fromkeys(LONG, pytest.mark.slow)}


@pytest.mark.parametrize("verb", [pytest.param(verb, marks=MARKS.get(verb, ())) for verb in VERBS])
def test_examples_run(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in the help of every function runs and prints the shown output."""
    monkeypatch.chdir(tmp_path)
    function: Callable[..., Any] = getattr(api, verb)
    found = doctest.DocTestFinder(recurse=False).find(function, verb, globs={})
    assert sum(len(test.examples) for test in found) >= 3
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in found:
        output: list[str] = []
        assert runner.run(test, out=output.append).failed == 0, "".join(output)
