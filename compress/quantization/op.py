"""The fake-quantize op, re-exported: it lives in core so that the runtime can load a quantized ``.pt2``."""

from __future__ import annotations

from ...core.backends.qdq import codes, qdq

__all__ = ["codes", "qdq"]
