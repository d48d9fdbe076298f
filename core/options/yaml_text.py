"""Reading of YAML that people write: UTF-8 text, in which `off`, `on`, `yes` and `no` are words.

YAML 1.1, which PyYAML reads, takes those words for booleans; YAML 1.2 (2009) has `true` and `false` alone, and so have
the options of a recipe: `timing_cache: off` is the word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the booleans of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    return yaml.load(text, Loader=_Loader)


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
            f"save it as UTF-8 (`iconv -f latin1 -t utf8 {path.name}` converts the usual case)",
        ) from fault
