"""TorchServe handler for every model; ``retort.serve.inference`` implements it.

An archive has it under the name of what the model reads besides arrays: image, text or audio, and else tensor.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HANDLER_VERSION = "1.0.0"
CONTRACT_VERSION = 1

try:
    from retort.serve.inference import Endpoint
except ImportError as error:
    # TorchServe would replace an ImportError with an error about its own handlers
    facts = {"code": "MachineError", "message": str(error), "remedy": "", "python": sys.executable}
    logging.getLogger("retort.serve").error("RETORT_LOAD_FAILED %s", json.dumps(facts))
    raise RuntimeError(f"{error} (python: {sys.executable})") from error

_endpoint = Endpoint(HANDLER_VERSION, reads=Path(__file__).stem)


def handle(data: Sequence[Mapping[str, object]] | None, context: Any) -> list[bytes]:
    """TorchServe's function entry: called once with ``data=None`` to load, then with each batch of requests.

    Returns:
        One body per request, in order.

    Raises:
        RuntimeError: at load, when the model cannot be served.
    """
    return _endpoint.handle(data, context)
