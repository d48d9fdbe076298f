"""The words about a ruined program."""

from __future__ import annotations

from retort.compress.pruning.output_change import ruined_words
from retort.core.facts.quantize_facts import Fidelity


def test_each_figure_stands_once() -> None:
    """Equal classes are told once, with the most frequent one; another output's fault follows in parentheses."""
    made = Fidelity.model_construct(
        agreement=0.859,
        sqnr_centred_db=5.3,
        shortfall="85.9% of the classes are the same (13% have the most frequent one)",
    )
    wanted = "85.9% of the classes are the same (13% have the most frequent one), centred SQNR 5.3 dB"
    assert ruined_words(made) == wanted
    other = made.model_copy(update={"shortfall": "output 'b': the centred SQNR is 2.0 dB"})
    assert ruined_words(other).endswith("5.3 dB (output 'b': the centred SQNR is 2.0 dB)")
