"""Words for people: counts with their nouns, lists, and the article of a word."""

from __future__ import annotations

from collections.abc import Collection, Iterable

VOWELS = "aeiou"
AS_CONSONANT = ("one", "uni", "use", "eu", "ubiq", "uint")
AS_VOWEL = (
    "hour",
    "honest",
    "onnx",
    "ort",
    "int8",
    "lstm",
    "mlp",
    "rnn",
    "mse",
    "mae",
    "npz",
    "nan",
    "fp",
    "f1",
    "html",
)
"""Beginnings that are spoken otherwise than they are written."""


def counted(count: int | Collection[object], singular: str, plural: str = "") -> str:
    """``1 gate``, ``2 gates``, ``3 classes``, ``1,250 samples``.

    Args:
        count: the number, or the things that are counted.
        plural: by default formed by the usual rules.
    """
    number = len(count) if isinstance(count, Collection) else count
    return f"{number:,} {singular if number == 1 else plural or plural_of(singular)}"


def plural_of(singular: str) -> str:
    """``gates``, ``classes``, ``axes``, ``entries``."""
    if singular.endswith("axis"):
        return f"{singular[:-2]}es"
    if singular.endswith(("s", "x", "ch", "sh")):
        return f"{singular}es"
    return f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"


def listed(items: Iterable[object], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}" if texts else ""


def with_article(word: str) -> str:
    """``an archive``, ``a graph``, ``an ONNX file``."""
    spoken = word.strip("`'\".").lower()
    vowel = spoken[:1] in VOWELS and not spoken.startswith(AS_CONSONANT)
    return f"{'an' if vowel or spoken.startswith(AS_VOWEL) else 'a'} {word}"
