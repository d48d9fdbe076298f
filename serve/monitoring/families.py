"""What is counted of a served model: the one table of names, buckets and labels, which has a bounded number of series.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..requests.replies import PHRASES

_STEPS = (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2)
"""The E12 series of preferred numbers: neighbours differ by 17 to 25 percent."""
TIMES_S = (
    *(float(f"{step}e-05") for step in _STEPS if step >= 4.7),
    *(float(f"{step}e{power}") for power in range(-4, 1) for step in _STEPS),
    10.0,
)
"""Upper bounds of times from 47 µs to 10 s, in seconds."""
ROWS = (1.0, *(float(size) for power in range(1, 10) for size in (1 << power, 3 << (power - 1))), 1024.0)
"""Upper bounds of numbers of rows: powers of two, and the middles between them."""
RATIOS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PHASES = ("decode", "validate", "assemble", "infer", "encode")
OPERATIONS = ("predict", "explain", "other")
OTHER = "other"
"""Stands for every status that no answer of Retort has."""
STATUSES = (*(str(status) for status in PHRASES), OTHER)
HANDLER, PHASE, AGE = "retort_handler_seconds", "retort_phase_seconds", "retort_request_age_seconds"
BATCH_ROWS, PADDED, REQUESTS = "retort_batch_rows", "retort_batch_padded_ratio", "retort_requests_total"


@dataclass(frozen=True)
class Family:
    """A metric with all its series.

    Attributes:
        about: one sentence for people.
        bounds: upper bounds of the buckets of a histogram, ascending, without infinity; empty for a counter.
        series: labels of each series, beside those of the model.
    """

    name: str
    about: str
    bounds: tuple[float, ...] = ()
    series: tuple[Mapping[str, str], ...] = ({},)

    @property
    def cells(self) -> int:
        """Numbers of one series: a counter's own, or a histogram's count of each bucket, of what is above, and sum."""
        return len(self.bounds) + 2 if self.bounds else 1

    @property
    def samples(self) -> tuple[str, ...]:
        """Names of its samples, as queries have them."""
        return tuple(f"{self.name}{end}" for end in ("_bucket", "_sum", "_count")) if self.bounds else (self.name,)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, the inverse of :meth:`from_dict`."""
        series = [dict(labels) for labels in self.series]
        return {"name": self.name, "about": self.about, "bounds": list(self.bounds), "series": series}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Family:
        """The family that a worker, perhaps of another version of Retort, described.

        Raises:
            LookupError: a key is missing.
            TypeError: a value has another type.
            ValueError: a bound is no number.
        """
        series = tuple({str(key): str(text) for key, text in labels.items()} for labels in value["series"])
        return Family(str(value["name"]), str(value["about"]), tuple(map(float, value["bounds"])), series)


FAMILIES = (
    Family(HANDLER, "Time of the handler for the batch of each request for a prediction, in seconds.", TIMES_S),
    Family(
        PHASE,
        "Time of a phase in seconds: decode, validate and encode of each request, assemble and infer of each run.",
        TIMES_S,
        tuple({"phase": phase} for phase in PHASES),
    ),
    Family(AGE, "Age of each request as the handler begins, since its header x-request-start, in seconds.", TIMES_S),
    Family(BATCH_ROWS, "Rows of requests in each run of the model, without padding.", ROWS),
    Family(PADDED, "Share of padding in the rows of each run of the model, from 0 to 1.", RATIOS),
    Family(
        REQUESTS,
        "Answered requests by status and operation.",
        series=tuple({"status": status, "operation": name} for status in STATUSES for name in OPERATIONS),
    ),
)


def places(families: tuple[Family, ...]) -> Iterator[tuple[Family, Mapping[str, str], int]]:
    """Each series with its labels and with the index of its first cell, in the order in which they are stored."""
    start = 0
    for family in families:
        for labels in family.series:
            yield family, labels, start
            start += family.cells
