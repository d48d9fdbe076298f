"""All errors that users can see: exit codes, HTTP statuses and remedies.

    RetortError                         exit 1   HTTP 500
    ├── UserError                       exit 2   HTTP 400   something that the user gave is wrong
    │   ├── RecipeError                                     the recipe has faults (all are listed)
    │   ├── MissingFileError                     HTTP 404   a path does not exist
    │   ├── DataError                                       the data set is empty, ragged or not finite
    │   ├── ModelError                                      the factory raised, or weights do not fit
    │   ├── InputError                                      a request or feed does not fit the signature
    │   └── LimitError                           HTTP 413   a request is larger than the limits allow
    ├── ArtifactError                   exit 3              a file is truncated, altered or foreign
    ├── CaptureError                    exit 4              torch.export cannot capture the model
    ├── VerificationError               exit 5              a proof or a parity check failed
    ├── GateError                       exit 6              a gate was missed or not decided
    ├── MachineError                    exit 7              a package, a provider, a port or Java is missing
    ├── StorageError                    exit 8              the disk is full or not writable
    ├── ServingError                    exit 9   HTTP 503   the server died or does not answer
    └── Interrupted                     exit 130            Ctrl-C or SIGTERM

This file is part of the runtime half: standard library only.
"""

from __future__ import annotations


class RetortError(Exception):
    """Base of all errors that Retort raises on purpose.

    Args:
        message: what is wrong and where, in one sentence.
        remedy: what to do next, in one sentence; it is shown on its own line.
        facts: further machine-readable details, shown by ``--json``.
    """

    exit_code = 1
    http_status = 500

    def __init__(self, message: str, remedy: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message

    def to_dict(self) -> dict[str, object]:
        """The error as JSON-ready values: ``code``, ``message``, ``remedy`` and the facts."""
        return {"code": type(self).__name__, "message": self.message, "remedy": self.remedy, **self.facts}


class UserError(RetortError):
    """Something that the user gave is wrong."""

    exit_code = 2
    http_status = 400


class RecipeError(UserError):
    """The recipe has faults; ``faults`` lists each with its key path."""


class MissingFileError(UserError):
    """A path does not exist."""

    http_status = 404


class DataError(UserError):
    """The data set is empty, ragged, not finite or does not fit the model."""


class ModelError(UserError):
    """The model factory raised, or the weights do not fit the model."""


class InputError(UserError):
    """A request or feed does not fit the signature."""


class LimitError(UserError):
    """A request is larger than the configured limits allow."""

    http_status = 413


class ArtifactError(RetortError):
    """A file is truncated, was altered after it was written, or was not written by Retort."""

    exit_code = 3


class CaptureError(RetortError):
    """``torch.export`` cannot capture the model."""

    exit_code = 4


class VerificationError(RetortError):
    """A proof after a transform failed, or a parity check between two sessions failed."""

    exit_code = 5


class GateError(RetortError):
    """A gate was missed, or could not be decided."""

    exit_code = 6


class MachineError(RetortError):
    """Something is missing on this machine: a package, a provider, a free port or Java."""

    exit_code = 7


class StorageError(RetortError):
    """The disk is full or not writable."""

    exit_code = 8


class ServingError(RetortError):
    """The server died, did not become ready or does not answer."""

    exit_code = 9
    http_status = 503


class Interrupted(RetortError):
    """The user pressed Ctrl-C, or the process received a signal to stop."""

    exit_code = 130
