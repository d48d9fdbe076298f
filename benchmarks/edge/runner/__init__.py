"""The program that measures on a device: Python 3.9 or newer, numpy and the runtime, and nothing else.

It is copied as it is. Its modules import the standard library, numpy and each other; the runtime is imported where a
model is opened. It opens no connection, and writes only below the folder that it is given.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = "retort.edge/1"
"""The form of the manifest that it reads, and of the results that it writes."""


def write(path: Path, value: dict[str, Any]) -> None:
    """Write JSON as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)
