"""INT8 quantization of a captured program with fake-quantize nodes: folding, placement, calibration, insertion."""

from __future__ import annotations

from ...core.backends.fake_quantize import qdq
from ...core.grid import Grid
from .placement.place import Placement, place
from .prepare.batch_norm_folding import fold_batch_norms
from .scheme import SCHEMES, Range, Scheme
from .stage import is_quantized, quantize, quantize_program

__all__ = [
    "SCHEMES",
    "Grid",
    "Placement",
    "Range",
    "Scheme",
    "fold_batch_norms",
    "is_quantized",
    "place",
    "qdq",
    "quantize",
    "quantize_program",
]
