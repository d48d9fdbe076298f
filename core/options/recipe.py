"""The recipe: one YAML file that describes a run. All its faults are reported at once, each with its line."""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from ..errors import MissingFileError, RecipeError
from .stage_options import DataSpec, Gate, MetricName, ModelSpec, Options, Target, Task, from_string
from .stage_table import PROGRAM_STAGES
from .stage_table import STAGES as TABLE
from .yaml_text import compose_yaml, parse_yaml, read_text


def _stage_name(value: Any) -> str:
    if isinstance(value, Stage):
        return value.name
    return next(iter(value)) if isinstance(value, dict) and len(value) == 1 else "?"


def _normal_stage(value: Any) -> Any:
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict) and len(value) == 1:
        return {name: {} if options is None else options for name, options in value.items()}
    return value


class Stage(Options):
    """One stage of the recipe: its name and its options."""

    name: ClassVar[str]

    @property
    def options(self) -> Options:
        """The options of this stage."""
        options: Options = getattr(self, self.name)
        return options


def _stage_model(name: str, options: type[Options]) -> type[Stage]:
    namespace = {"__annotations__": {name: options, "name": ClassVar[str]}, "__module__": __name__, "name": name}
    return type(f"{name.capitalize()}Stage", (Stage,), {**namespace, "__doc__": f"The `{name}` stage."})


_MODELS = {name: _stage_model(name, entry.options) for name, entry in TABLE.items()}
_TAGGED: list[Any] = [Annotated.__class_getitem__((model, Tag(name))) for name, model in _MODELS.items()]  # type: ignore[attr-defined]
AnyStage: Any = Annotated[reduce(operator.or_, _TAGGED), Discriminator(_stage_name)]


class Recipe(Options):
    """A whole recipe."""

    name: str = Field(default="model", pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the run and of its folder.")
    task: Task = Field(default="classification", description="What the model does.")
    metric: MetricName | None = Field(
        default=None,
        description="Metric of gates and tables. The default is accuracy for classification and mse for regression.",
    )
    target: Target = Field(
        default="cpu", description="The hardware that the model is made for. It determines the quantization scheme."
    )
    seed: int = Field(default=0, description="Random seed of the whole run.")
    prefer: Literal["asked", "fastest"] = Field(
        default="asked",
        description="fastest ships the program from before `quantize` if INT8 is not faster. asked ships what the "
        "recipe asks for.",
    )
    model: Annotated[ModelSpec, BeforeValidator(from_string)] = Field(
        description="The trained model, or the model to train. The source alone is enough."
    )
    data: Annotated[DataSpec, BeforeValidator(from_string)] = Field(
        description="Samples for calibration, training and measurement. The source alone is enough."
    )
    stages: tuple[Annotated[AnyStage, BeforeValidator(_normal_stage)], ...] = Field(
        min_length=1, description="The stages, in the order in which they run."
    )
    gates: tuple[Gate, ...] = Field(
        default=(), description="Bounds that must hold. The run stops at the first one that does not."
    )

    @property
    def metric_name(self) -> MetricName:
        """The metric that accuracy gates and tables use."""
        return self.metric or ("accuracy" if self.task == "classification" else "mse")

    @model_validator(mode="after")
    def _in_order(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        faults = [*_order_faults(names), *_gate_faults(self.gates, names)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _order_faults(names: list[str]) -> list[str]:
    needs = {name: entry.after for name, entry in TABLE.items() if entry.after is not None}
    faults = [f"`{name}` needs `{first}` before it" for name, first in needs.items() if _missing(names, name, first)]
    faults += [f"`{name}` appears twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    tail = names[names.index("export") :] if "export" in names else []
    faults += [f"`{name}` must come before `export`" for name in tail if name in PROGRAM_STAGES]
    if "quantize" in names:
        late = names[names.index("quantize") + 1 :]
        faults += [f"`{name}` must come before `quantize`" for name in late if name in PROGRAM_STAGES]
    if "capture" in names[1:]:
        faults.append("`capture` must be the first stage")
    return faults


def _missing(names: list[str], name: str, needs: str) -> bool:
    return name in names and needs not in names[: names.index(name)]


def _gate_faults(gates: tuple[Gate, ...], names: list[str]) -> list[str]:
    known = ["capture", *names]
    faults = []
    for index, gate in enumerate(gates):
        for key, stage in (("after", gate.after), ("against", gate.against)):
            if stage is not None and stage not in known:
                faults.append(f"gates.{index}.{key}: no stage '{stage}'{nearest(stage, known)}")
    return faults


def nearest(word: str, known: list[str]) -> str:
    """Return ``; did you mean 'macs'?`` if a known word is spelled like ``word`` or has its initials, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    close = close or [name for name in known if word == "".join(part[:1] for part in name.split("_"))]
    return f"; did you mean '{close[0]}'?" if close else ""


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        MissingFileError: there is no such file.
        RecipeError: the recipe has faults; ``facts["faults"]`` lists each with key path, line and nearest spelling.
    """
    if not path.is_file():
        raise MissingFileError(f"no such recipe: {path}", "write one with `retort init`")
    text = read_text(path, RecipeError)
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {_one_line(error)}", "correct that line") from error
    return parse_recipe(raw, text, str(path))


def parse_recipe(raw: object, text: str = "", where: str = "the recipe") -> Recipe:
    """Check a recipe that has already been parsed; see :func:`load_recipe`."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{where} is not a mapping of keys to values", "start from `retort init`")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = _lines(text)
        found = error.errors(include_url=False)
        # stages with faults are left out, which is no further fault of the list
        found = [item for item in found if item["type"] != "too_short" or not _has_faults_inside(item, found)]
        faults = [_fault(item, lines) for item in found]
        listed = "".join(f"\n  {fault}" for fault in faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError(f"{where} has {count}:{listed}", "`retort schema` lists every key", faults=faults) from error


def _has_faults_inside(item: Any, found: list[Any]) -> bool:
    size = len(item["loc"])
    return any(len(other["loc"]) > size and other["loc"][:size] == item["loc"] for other in found)


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + str(getattr(error, "problem", None) or error)


def _fault(item: Any, lines: dict[tuple[str, ...], int]) -> str:
    path = _key_path(item["loc"])
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = ".".join(path) + (f" (line {line})" if line else "")
    message = _message(item, path)
    return f"{where}: {message}" if where else message


def _key_path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Pydantic's location without the tags of unions that it inserts before the keys of a stage."""
    path: list[str] = []
    for part in map(str, loc):
        repeated = len(path) >= 2 and path[0] == "stages" and part == path[-1] and part in TABLE
        if not repeated and not part.startswith(("literal[", "tuple[", "function-", "constrained-")):
            path.append(part)
    return tuple(path)


def _message(item: Any, path: tuple[str, ...], root: type[BaseModel] | None = None) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{nearest(path[-1], _known_keys(path[:-1], root))}"
    if kind.startswith("union_tag"):
        name = next(iter(value)) if isinstance(value, dict) and value else value
        return f"unknown stage '{name}'{nearest(str(name), list(TABLE))}"
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        expected = str(item["ctx"]["expected"])
        known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        return f"{value!r} is not one of {expected}{nearest(str(value), known)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message if kind == "value_error" else f"{message[0].lower()}{message[1:]}, not {value!r}"


def option_faults(
    options: type[Options], error: ValidationError, named: Callable[[tuple[str, ...]], str] = ".".join
) -> list[str]:
    """Every fault of a stage's options as ``key: what``, worded as those of a recipe.

    Args:
        named: how a key path is written.
    """
    faults = []
    for item in error.errors(include_url=False):
        path = _key_path(item["loc"])
        message = _message(item, path, options)
        faults.append(f"{named(path)}: {message}" if path else message)
    return faults


def _known_keys(path: tuple[str, ...], root: type[BaseModel] | None = None) -> list[str]:
    model: Any = root or Recipe
    for part in path:
        model = (TABLE[part].options if part in TABLE else None) or _field_model(model, part) or model
    return [name for name in model.model_fields if name != "name" or model is not Stage]


def _field_model(model: Any, part: str) -> type[BaseModel] | None:
    field = model.model_fields.get(part)
    stack: list[Any] = [field.annotation] if field else []
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        stack.extend(get_args(kind))
    return None


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Line numbers, from 1, of every key path in a YAML text."""
    found: dict[tuple[str, ...], int] = {}
    if text:
        _note_lines(compose_yaml(text), (), found)
    return found


def _note_lines(node: Any, path: tuple[str, ...], found: dict[tuple[str, ...], int]) -> None:
    children = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), value, value) for index, value in enumerate(node.value)]
    for name, marked, value in children:
        found[(*path, name)] = marked.start_mark.line + 1
        _note_lines(value, (*path, name), found)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors; short forms (a bare stage name, a bare source) included."""
    made = Recipe.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    properties = made["properties"]
    stage = properties["stages"]["items"]
    properties["stages"]["items"] = {"anyOf": [{"enum": list(TABLE)}, *stage.get("oneOf", [stage])]}
    for key in ("model", "data"):
        properties[key] = {"anyOf": [{"type": "string"}, properties[key]]}
    result: dict[str, Any] = json.loads(json.dumps(made))
    return result
