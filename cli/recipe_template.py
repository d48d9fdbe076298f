"""The commented recipe that `retort init` writes: what is to be done, and every option of it with its default."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel

from ..core.options.recipe import Recipe
from ..core.options.stage_options import DataSpec, Gate, ModelSpec, Target, Task
from ..core.options.stage_table import STAGES

_WIDTH = 110
_TAKEN = ("true", "false", "null")
Goal = Literal["int8", "prune", "distill", "train", "export"]
GOALS: dict[Goal, str] = {
    "int8": "quantize a trained model to INT8",
    "prune": "prune a trained model, then quantize it",
    "distill": "distil a trained model into a smaller one, then quantize that",
    "train": "train a model first, then quantize it",
    "export": "only export it to ONNX and measure it",
}
"""What a recipe is for, in words."""
_STAGES: dict[Goal, tuple[str, ...]] = {
    "int8": ("quantize", "export", "bench", "report"),
    "prune": ("prune", "quantize", "export", "bench", "report"),
    "distill": ("distill", "quantize", "export", "bench", "report"),
    "train": ("train", "quantize", "export", "bench", "report"),
    "export": ("export", "bench", "report"),
}
_GIVEN: dict[str, dict[str, Any]] = {"prune": {"macs": 0.5}, "distill": {"student": "my_package.my_module:small"}}
"""Options that a stage needs, because they have no default."""
_GATES = {
    "prune": {"after": "prune", "accuracy_drop": 0.02},
    "distill": {"after": "distill", "accuracy_drop": 0.02},
    "quantize": {"after": "quantize", "accuracy_drop": 0.01},
}


@dataclass(frozen=True)
class Answers:
    """What a starter recipe needs to know.

    Attributes:
        options: options that differ from the defaults, by stage.
    """

    name: str
    model: str
    data: str
    task: Task = "classification"
    target: Target = "cpu"
    goal: Goal = "int8"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def recipe_text(answers: Answers) -> str:
    """A recipe with comments; an option in a comment has its default, so that it may be written out or left out."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", answers.name).lstrip(".") or "model"
    lines = [
        "# A Retort recipe: `retort check` lists its faults, `retort run` runs it.",
        "# Options in comments have their defaults.",
        f"name: {_word(name)}",
        f"task: {answers.task}  # {_choices(Task)}",
        f"target: {answers.target}  # {_choices(Target)}",
        *_defaults(Recipe, {"name", "task", "target", "model", "data", "stages", "gates"}, ""),
        "",
        "model:",
        *_commented(f"  source: {_word(answers.model)}", first_sentence(ModelSpec, "source")),
        *_defaults(ModelSpec, {"source"}, "  "),
        "",
        "data:",
        *_commented(f"  source: {_word(answers.data)}", first_sentence(DataSpec, "source")),
        *_defaults(DataSpec, {"source"}, "  "),
        "",
        "stages:",
        *(line for stage in _STAGES[answers.goal] for line in _stage(stage, answers)),
    ]
    gates = [_GATES[stage] for stage in _STAGES[answers.goal] if stage in _GATES]
    if gates:
        lines += ["", "gates:  # each must hold with its confidence, or the run stops"]
        lines += [line for gate in gates for line in _gate(gate)]
    return "\n".join(lines) + "\n"


def _choices(kind: Any) -> str:
    return " or ".join(get_args(kind))


def _stage(name: str, answers: Answers) -> Iterator[str]:
    given = {**_GIVEN.get(name, {}), **answers.options.get(name, {})}
    options = STAGES[name].options
    purpose = (STAGES[name].purpose or (options.__doc__ or "")).partition(". ")[0].rstrip(".")
    comments = list(_defaults(options, set(given), "      "))
    yield f"  # {purpose}."
    yield f"  - {name}:" if given else f"  - {name}: {{}}" if not comments else f"  - {name}:"
    for key, value in given.items():
        yield from _commented(f"      {key}: {_word(value)}", first_sentence(options, key))
    yield from comments


def _gate(gate: Mapping[str, Any]) -> Iterator[str]:
    first, *rest = gate.items()
    yield f"  - {first[0]}: {_word(first[1])}"
    for key, value in rest:
        yield from _commented(f"    {key}: {_word(value)}", first_sentence(Gate, key))
    yield from _defaults(Gate, {*gate, "speedup", "size_ratio", "batch_size"}, "    ")


def _defaults(options: type[BaseModel], given: set[str], indent: str) -> Iterator[str]:
    """Every option that is not given as a comment: its default, and one sentence."""
    for name, item in options.model_fields.items():
        if name not in given and not item.is_required():
            default = item.get_default(call_default_factory=True)
            yield from _commented(f"{indent}# {name}: {_word(_plain(default))}", first_sentence(options, name))


def _commented(line: str, sentence: str) -> Iterator[str]:
    """A line with a sentence behind it, or above it if both together are too long."""
    if len(line) + len(sentence) + 4 <= _WIDTH:
        yield f"{line}  # {sentence}"
        return
    indent = line[: len(line) - len(line.lstrip())]
    yield from (f"{indent}# {part}" for part in textwrap.wrap(sentence, _WIDTH - len(indent) - 2))
    yield line


def _plain(value: Any) -> Any:
    """A default as YAML: of nested options those that their own class declares, because the others are inherited."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).__annotations__}
    return list(value) if isinstance(value, tuple) else value


def _word(value: Any) -> str:
    """A value in the flow style of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_word(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_word, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*(:[\w.]+)?", value) and value.lower() not in _TAKEN:
        return value
    return json.dumps(value, ensure_ascii=False)


def first_sentence(options: type[BaseModel], name: str) -> str:
    """The first sentence of an option's description."""
    text = options.model_fields[name].description or name
    return re.split(r"(?<!\bal)(?<=[^.]\.)\s+(?=[A-Za-z`])", text)[0]
