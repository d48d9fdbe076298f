"""Marks of options that name a file or a function of the user: what they contain is part of an artifact's key."""

from __future__ import annotations

NAMES_FILE = "names a file"
"""The value is a path, relative to the recipe."""
NAMES_FUNCTION = "names a function"
"""The value is ``package.module:function``, or a device after :data:`DEVICE`."""
DEVICE = "edge:"
"""Begins the name of a device, as in ``edge:pi@raspberrypi.local``."""
NAMES_KEY = "names a private key"
"""The value is the path of a private key, relative to the recipe; only the id of its public key is part of a key."""
NAMES_PATH = "may name a path"
"""The value may be a file, or a folder of small files, relative to the recipe; a word that is neither stays a word."""
