"""The values inside a program as `retort show --nodes` lists them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..core.artifact import Artifact
from ..core.errors import UserError

if TYPE_CHECKING:
    from ..compress.graph.node_values import NodeValue

HEADER = ["module", "node", "operator", "shape", "type"]


def nodes_of(artifact: Artifact, pattern: str) -> list[NodeValue]:
    """The tensors that a program computes, in order.

    Args:
        pattern: only those whose module path, node name or operator contain it, or match it if it has `*` or `?`;
            empty for all.

    Raises:
        UserError: the artifact is no program, or nothing matches.
    """
    if artifact.kind != "program":
        raise UserError(
            f"{artifact.path} is no program, so it has no nodes to list",
            "give a program, such as runs/digits/01-capture-…",
        )
    from ..compress.graph.node_values import node_values
    from ..compress.program import load_program

    values = node_values(load_program(artifact.main))
    found = [value for value in values if _matches(value, pattern)]
    if not found:
        raise UserError(f"no node of {artifact.path} matches '{pattern}'", "leave out --match to list all of them")
    return found


def _matches(value: NodeValue, pattern: str) -> bool:
    wild = pattern if any(char in pattern for char in "*?[") else f"*{pattern}*"
    return any(fnmatchcase(text, wild) for text in (value.path, value.name, value.operator))


def row(value: NodeValue) -> tuple[str, ...]:
    """A value as a line of the table."""
    sizes = ", ".join(str(size) for size in value.shape)
    return value.path, value.name, value.operator, f"[{sizes}]", value.dtype
