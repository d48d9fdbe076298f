"""What all pages of results have in common: their style, and the filters of their templates."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from . import formatting

HERE = __name__.rpartition(".")[0]


def rendered(package: str, template: str, **values: Any) -> str:
    """A template with its values; it may include those of this package.

    Args:
        package: where the template lies.
        template: its file.
    """

    def text(name: str) -> str:
        return (files(package if name == template else HERE) / name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(text)
    )
    environment.filters.update(time=formatting.time_text, bytes=formatting.bytes_text, count=formatting.count_text)
    environment.filters["short"] = lambda name: formatting.short_name(name, 28)
    return environment.get_template(template).render(**values)
