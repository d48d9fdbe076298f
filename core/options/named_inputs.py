"""Marks of options that name a file or a function of the user: what they contain is part of an artifact's key."""

from __future__ import annotations

from collections.abc import Iterator

from .option_types import Options

NAMES_FILE = "names a file"
"""The value is a path, relative to the recipe."""
NAMES_FUNCTION = "names a function"
"""The value is ``package.module:function``, or a device after :data:`DEVICE`."""
DEVICE = "edge:"
"""Begins the name of a device, as in ``edge:pi@raspberrypi.local``."""
NAMES_METRIC = "may name a function"
"""The value is a metric, which may be ``package.module:function``."""
NAMES_KEY = "names a private key"
"""The value is the path of a private key, relative to the recipe; only the id of its public key is part of a key."""
NAMES_PATH = "may name a path"
"""The value may be a file, or a folder of small files, relative to the recipe; a word that is neither stays a word."""


def option_tree(options: Options, key: str = "") -> Iterator[tuple[str, Options]]:
    """Options and those nested in them, each with its key path from the outermost, such as ``losses.0``."""
    yield key, options
    for name in type(options).model_fields:
        value = getattr(options, name)
        items = value if isinstance(value, tuple) else (value,)
        for number, item in enumerate(items):
            if isinstance(item, Options):
                parts = [key, name, str(number) if isinstance(value, tuple) else ""]
                yield from option_tree(item, ".".join(part for part in parts if part))
