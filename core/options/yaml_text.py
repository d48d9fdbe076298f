"""Reading of YAML 1.2 (2009) that people write: UTF-8 text, in which `off`, `on`, `yes` and `no` are words.

YAML 1.1, which PyYAML reads, takes those words for booleans, `1:30` for 90, `017` for 15, `1_0` for 10 and `2024-01-01`
for a date. The core schema of YAML 1.2 has `true` and `false`, decimal numbers, `0o17` and `0xf`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

_REPLACED = ("bool", "int", "float", "timestamp")
_INTEGER = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the booleans and the numbers of YAML 1.2."""

    def integer(self, node: yaml.ScalarNode) -> int:
        """A decimal, octal or hexadecimal number."""
        text = str(self.construct_scalar(node))
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)

    def real(self, node: yaml.ScalarNode) -> float:
        """A number with a fraction or an exponent, infinity, or no number."""
        return float(str(self.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.real)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is not valid YAML, is nested too deeply, or contains an alias of itself.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _require_tree(node, [])
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except ValueError as error:  # such as a date, or a number in a form that Python does not read
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


_FAULTS = (
    (r"found character '\\t' that cannot start any token", "a tab stands here; YAML takes only spaces before a value"),
    (
        r"expected <block end>, but found .*",
        "the indentation differs from that of the lines above it, or text follows a value that has ended",
    ),
    (
        r"mapping values are not allowed here",
        "no key may stand here: the line is indented too far, or a text with a colon needs quotes",
    ),
    (r"but found another document", "a second document begins here (`---`), and only one is read: remove the rest"),
    (
        r"could not determine a constructor for the tag '(.*)'",
        r"the tag {0} has no meaning here: write the value without it, or in quotes if it is text",
    ),
)
"""Faults in the words of PyYAML, as patterns, and in plain words."""


def yaml_fault(error: yaml.YAMLError) -> str:
    """A fault of YAML in one line of plain words, with its place."""
    mark, text = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    for pattern, words in _FAULTS:
        if found := re.fullmatch(pattern, text):
            return place + words.format(*found.groups()).replace("tag:yaml.org,2002:", "!!")
    return place + text


def _require_tree(node: Any, above: list[Any]) -> None:
    """Reject an alias inside of what it stands for."""
    if any(node is other for other in above):
        raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _require_tree(child, [*above, node])


def compose_yaml(text: str) -> Any:
    """The nodes of a YAML text, with their places."""
    return yaml.compose(text, Loader=_Loader)


def read_text(path: Path, error: type[UserError] = UserError) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: of the given kind; the file is in another encoding. The message has the line.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise error(
            f"{path} is not UTF-8 text: line {line} has the byte 0x{content[fault.start]:02x}",
            f"save it as UTF-8 (`iconv -f {_encoding(content)} -t utf8 {path.name}` converts the usual case)",
        ) from fault


def _encoding(content: bytes) -> str:
    """The likely encoding of text that is not UTF-8."""
    if content.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    return "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in content else "latin1"
