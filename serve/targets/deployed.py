"""A deployment that is being written: its bundle, and what its files are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.options.serving_options import PackOptions
from ..bundles.bundle import Parts
from ..settings import Settings


@dataclass(frozen=True)
class Deployed:
    """What a target's files are made from.

    Attributes:
        folder: the folder of the deployment.
        bundle: the whole bundle in it.
        settings: the settings in the bundle.
    """

    folder: Path
    bundle: Path
    parts: Parts
    settings: Settings
    options: PackOptions

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the deployment."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


Commands = Mapping[str, str]
"""What a user runs, by what it does."""
