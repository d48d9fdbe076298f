"""The ASGI application of a container: it serves the bundle in the folder that the variable RETORT_BUNDLE names.

With trusted keys (RETORT_TRUST) the code is that of the image, so that no code of a bundle runs before its signature is
verified.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLE = Path(os.environ.get("RETORT_BUNDLE", HERE / "bundle"))
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE / "bundle" if os.environ.get("RETORT_TRUST") else BUNDLE))

from retort_runtime import Application  # noqa: E402  # the bundle has it

app = Application(BUNDLE, json.loads((HERE / "deployment.json").read_bytes())["p99_ms"])
