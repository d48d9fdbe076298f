"""The recipe: one YAML file that describes a run. All its faults are reported at once, each with its line."""

from __future__ import annotations

import difflib
import json
import operator
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from ..counts import listed
from ..errors import RecipeError
from ..system.user_paths import require_file
from .augment_options import TRANSFORMS
from .distill_losses import LOSSES
from .metric_names import DEFAULT_METRICS
from .option_types import Seed
from .recipe_faults import Fault, KeyLines, recipe_error
from .stage_options import DataSpec, Gate, MetricName, ModelSpec, Options, Target, Task, from_string
from .stage_table import PROGRAM_STAGES
from .stage_table import STAGES as TABLE
from .value_faults import in_words
from .yaml_text import parse_yaml, read_text, yaml_fault


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

    name: str = Field(
        default="model",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$",
        description="Name of the run and of its folder. It may not begin with a dot.",
    )
    task: Task = Field(
        default="classification",
        description="What the model does. Segmentation and labels of tokens are classification, with a class for each "
        "position.",
    )
    metric: MetricName | None = Field(
        default=None,
        description="Metric of gates and tables, such as f1, top3, recall@10, iou[2] or package.module:function. The "
        "default is accuracy for classification, average_precision for multilabel, mse for regression, recall@1 for "
        "embedding, cer for sequence, and map for detection.",
    )
    target: Target = Field(
        default="cpu", description="The hardware that the model is made for. It determines the quantization scheme."
    )
    seed: Seed = Field(default=0, description="Random seed of the whole run.")
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
        return self.metric or DEFAULT_METRICS[self.task]

    @model_validator(mode="after")
    def _in_order(self) -> Recipe:
        gates = [(gate.after, gate.against) for gate in self.gates]
        faults = _structure_faults([stage.name for stage in self.stages], gates)
        if faults:
            raise ValueError("; ".join(f"{_dotted(loc)}: {text}" for loc, text in faults))
        return self


Located = tuple[tuple[int | str, ...], str]
"""A fault with its place, in the form that pydantic gives places."""


def _structure_faults(names: list[str], gates: list[tuple[Any, Any]]) -> list[Located]:
    """Faults of the order of the stages, and of the stages that gates name."""
    return [*_order_faults(names), *_gate_faults(gates, names)]


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def _order_faults(names: list[str]) -> Iterator[Located]:
    for index, name in enumerate(names):
        needs = TABLE[name].after
        if name in names[:index]:
            yield ("stages", index), f"`{name}` appears twice"
        if needs is not None and needs not in names[:index]:
            yield ("stages", index), f"`{name}` needs `{needs}` before it"
        for last in ("export", "quantize"):
            if name in PROGRAM_STAGES and name != last and last in names[:index] and name != "capture":
                yield ("stages", index), f"`{name}` must come before `{last}`"
        if name == "capture" and index:
            yield ("stages", index), "`capture` must be the first stage"


def _gate_faults(gates: list[tuple[Any, Any]], names: list[str]) -> Iterator[Located]:
    known = list(dict.fromkeys(["capture", *names]))
    for index, gate in enumerate(gates):
        for key, stage in zip(("after", "against"), gate):
            if stage is not None and stage not in known:
                meant = nearest(str(stage), known) or f"; the stages of the recipe are {listed(known)}"
                yield ("gates", index, key), f"no stage '{stage}'{meant}"


def nearest(word: str, known: list[str]) -> str:
    """Return ``; did you mean 'macs'?`` if a known word is spelled like ``word`` or has its initials, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    close = close or [name for name in known if word == "".join(part[:1] for part in name.split("_"))]
    return f"; did you mean '{close[0]}'?" if close else ""


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        MissingFileError: there is no such file.
        RecipeError: the recipe has faults; ``facts["faults"]`` lists each with its key, line, message and remedy.
    """
    return read_recipe(path)[0]


def read_recipe(path: Path) -> tuple[Recipe, KeyLines]:
    """A recipe as :func:`load_recipe` returns it, and the lines of its keys."""
    require_file(path, "recipe", "write one with `retort init`")
    text = read_text(path, RecipeError)
    try:
        raw = parse_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {yaml_fault(error)}", "correct that line") from error
    return parse_recipe(raw, text, str(path)), KeyLines(text)


def parse_recipe(raw: object, text: str = "", where: str = "the recipe") -> Recipe:
    """Check a recipe that has already been parsed; see :func:`load_recipe`."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{where} is not a mapping of keys to values", "start from `retort init`")
    lines = KeyLines(text)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # stages with faults are left out, which is no further fault of the list
        found = [item for item in found if item["type"] != "too_short" or not _has_faults_inside(item, found)]
        faults = [_fault(item) for item in found if item["loc"]]  # those of order have no place
        faults += _structure_of(raw)
        raise recipe_error(where, [*map(lines.placed, faults), *lines.repeated]) from error
    if lines.repeated:
        raise recipe_error(where, lines.repeated)
    return recipe


def _structure_of(raw: dict[Any, Any]) -> list[Fault]:
    """Faults of order in a recipe that has other faults too; none if its stages have unknown names."""
    stages, gates = raw.get("stages"), raw.get("gates") or []
    names = [_stage_name(_normal_stage(stage)) for stage in stages] if isinstance(stages, list) else []
    if not names or not all(name in TABLE for name in names) or not isinstance(gates, list):
        return []
    named = [(gate.get("after"), gate.get("against")) if isinstance(gate, dict) else (None, None) for gate in gates]
    return [Fault(_dotted(loc), text) for loc, text in _structure_faults(names, named)]


def _has_faults_inside(item: Any, found: list[Any]) -> bool:
    size = len(item["loc"])
    return any(len(other["loc"]) > size and other["loc"][:size] == item["loc"] for other in found)


def _fault(item: Any) -> Fault:
    path = _key_path(item["loc"])
    return Fault(".".join(path), _message(item, path))


def _key_path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Pydantic's location without the tags of unions that it inserts before the keys of a stage."""
    path: list[str] = []
    for part in map(str, loc):
        repeated = len(path) >= 2 and path[-2].isdigit() and part == path[-1]
        if not repeated and not part.startswith(("literal[", "tuple[", "function-", "constrained-")):
            path.append(part)
    return tuple(path)


def _message(item: Any, path: tuple[str, ...], root: type[BaseModel] | None = None) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{nearest(path[-1], _known_keys(path[:-1], root))}"
    if kind.startswith("union_tag"):
        name = next(iter(value)) if isinstance(value, dict) and value else value
        if "augment" in path:
            return f"unknown transform '{name}'{nearest(str(name), list(TRANSFORMS))}"
        return f"unknown stage '{name}'{nearest(str(name), list(TABLE))}"
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        expected = str(item["ctx"]["expected"])
        known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        return f"{value!r} is not one of {expected}{nearest(str(value), known)}"
    plain = in_words(item)
    if plain is not None:
        return plain
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
    found = error.errors(include_url=False)
    for item in found:
        if item["type"] == "too_short" and _has_faults_inside(item, found):
            continue
        path = _key_path(item["loc"])
        message = _message(item, path, options)
        faults.append(f"{named(path)}: {message}" if path else message)
    return faults


def _known_keys(path: tuple[str, ...], root: type[BaseModel] | None = None) -> list[str]:
    model: Any = root or Recipe
    for part in path:
        inside = TABLE[part].options if part in TABLE else LOSSES.get(part) if "losses" in path else None
        inside = inside or (TRANSFORMS.get(part) if "augment" in path else None)
        model = inside or _field_model(model, part) or model
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


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors; short forms (a bare stage name, a bare source) included."""
    made = Recipe.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    properties = made["properties"]
    stage = properties["stages"]["items"]
    properties["stages"]["items"] = {"anyOf": [{"enum": list(TABLE)}, *stage.get("oneOf", [stage])]}
    for definition in made["$defs"].values():
        augment = definition.get("properties", {}).get("augment")
        if augment is not None:
            augment["items"] = {"anyOf": [{"enum": list(TRANSFORMS)}, {"type": "object", "maxProperties": 1}]}
    for key in ("model", "data"):
        properties[key] = {"anyOf": [{"type": "string"}, properties[key]]}
    result: dict[str, Any] = json.loads(json.dumps(made))
    return result
