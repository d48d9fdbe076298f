"""The start of each model in new processes, in its parts."""

from __future__ import annotations

from ..result import Result
from . import formatting
from .drawing import COLOUR, Plot, axes, beside, drawn, named_rows

ROW = 26
PARTS = ("start and import", "load", "first inference", "until steady")


def starts(result: Result) -> Plot | None:
    """Bars of what a start consists of; None if no start was measured."""
    known = [(stage.stage, stage.start) for stage in result.stages if stage.start is not None]
    if not known:
        return None
    with axes(50 + len(known) * ROW) as ax:
        named_rows(ax, [name for name, _ in known])
        ax.set_xlim(0, 1e3 * max(start.steady_s for _, start in known) or 1)
        ax.set_xlabel("ms since the start of the process")
        for row, (_, start) in enumerate(known):
            before = max(0.0, start.steady_s - start.load_s - start.first_s)
            ends = [min(start.import_s, before)]
            ends += [ends[0] + start.load_s, ends[0] + start.load_s + start.first_s]
            left = 0.0
            for part, end in enumerate([*ends, max(start.steady_s, ends[-1])]):
                ax.barh(row, 1e3 * (end - left), left=1e3 * left, height=0.62, color=COLOUR[f"s{part}"])
                left = end
            beside(ax, (1e3 * left, row), formatting.time_text(1e3 * left))
        svg = drawn(ax, "start of a model")
    cold = [start.cold_file_load_s for _, start in known if start.cold_file_load_s is not None]
    longest = formatting.time_text(1e3 * max(cold)) if cold else ""
    unread = f" A file that was not in the page cache was loaded in up to {longest}." if cold else ""
    caption = f"Medians over the starts of new processes, until a call is as fast as later ones.{unread}"
    return Plot("start of a model", caption, svg, tuple((name, part) for part, name in enumerate(PARTS)))
