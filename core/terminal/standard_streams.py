"""The standard streams: characters that their encoding does not have, and readers that stopped reading."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

_PLAIN = {
    "→": "->", "←": "<-", "×": "x", "✓": "ok", "✗": "no", "…": "...", "–": "-", "—": "-", "−": "-", "±": "+-",
    "µ": "u", "≥": ">=", "≤": "<=", "·": "*", "│": "|", "┃": "|", "─": "-", "━": "-", "═": "=",
    "“": '"', "”": '"', "’": "'", "‖": "||", "²": "^2", "α": "alpha",
}  # fmt: skip
"""What stands for a character on terminals that cannot show it."""
HANDLER = "retort.plain"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in part), error.end


def write_any_character() -> None:
    """Let the standard streams write every character: an encoding such as ASCII gets a plain form of it."""
    codecs.register_error(HANDLER, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=HANDLER)


def open_closed_streams() -> None:
    """Give every standard stream that was closed before the start, as in ``retort schema >&-``, an empty target.

    Otherwise the next file that is opened would get the descriptor of the stream, and everything printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            target = os.open(os.devnull, os.O_RDWR)
            if target != number:
                os.dup2(target, number)
                os.close(target)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115  # until the end


def no_bars_in_logs() -> None:
    """Without a terminal, libraries that a user's code calls draw no bars of loading and downloading.

    What the user has set already stays as it is.
    """
    if not sys.stderr.isatty():
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def close_broken_pipe() -> None:
    """Give the standard output another target after its reader ended, so that nothing is reported at the exit."""
    with contextlib.suppress(OSError, ValueError):
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, sys.stdout.fileno())
        os.close(target)
