"""The command line: one subcommand per stage, one message per error, and an exit code for each kind of error."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
import traceback
import warnings
from typing import Any

from .core.errors import Interrupted, MachineError, RetortError, StorageError, UserError
from .core.terminal.standard_streams import close_broken_pipe, no_bars_in_logs, open_closed_streams, write_any_character


def main(arguments: list[str] | None = None) -> None:
    """Run `retort` and exit with the code of :mod:`retort.core.errors`; 0 without an error."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--debug" not in given:
        warnings.filterwarnings("ignore", category=FutureWarning)  # from torch, about its internals
    # waiting threads that spin make training ten times slower where other processes share the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _stop)
    open_closed_streams()
    write_any_character()
    no_bars_in_logs()
    code = _guarded(given)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # as in `retort schema | head`
        close_broken_pipe()
    sys.exit(code)


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _guarded(given: list[str]) -> int:
    try:
        return _run(given)
    except (KeyboardInterrupt, Interrupted) as stop:
        return _report(_interrupted(stop, given), given)
    except RetortError as error:
        return _report(error, given)
    except BrokenPipeError:
        close_broken_pipe()
        return 0
    except OSError as error:
        return _of_file(error, given) if error.filename is not None else _foreign(error, given)
    except Exception as error:  # any exception that is not a RetortError is a defect of Retort
        return _foreign(error, given)


def _run(given: list[str]) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        from .cli.several_processes import in_several_processes

        return in_several_processes(lambda: _command(given))
    return _command(given)


def _command(given: list[str]) -> int:
    code = _app(given[0] if given else "")(given, prog_name="retort", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _interrupted(stop: BaseException, given: list[str]) -> Interrupted:
    """What is kept, and the command that goes on."""
    from .core.terminal.interruption import kept_by

    kept = kept_by(stop.__cause__ or stop)
    command = shlex.join(["retort", *given])
    if not kept:
        return Interrupted("stopped; nothing unfinished is kept", f"start again with `{command}`", command=command)
    return Interrupted(f"stopped: {'; '.join(kept)}", f"go on with `{command}`", kept=list(kept), command=command)


def _app(command: str = "") -> Any:
    from .cli.command_table import application

    return application(command)


def _of_file(error: OSError, given: list[str]) -> int:
    """The error of a path in one sentence, with the remedy for its kind."""
    from .core.system.user_paths import remedy_of

    return _report(StorageError(f"{error.filename}: {error.strerror or error}", remedy_of(error.errno)), given, error)


def _of_system(error: Exception) -> RetortError | None:
    """The error of a path that an exception does not name; None for every other exception."""
    from .core.system.user_paths import REMEDIES, current_folder_is_gone, remedy_of

    text = str(error)
    if isinstance(error, OSError) and current_folder_is_gone():
        return StorageError("the current folder was deleted", "change to a folder that exists")
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return StorageError(error.strerror or text, remedy_of(error.errno))
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):  # of pathlib
        return StorageError(text, remedy_of(errno.ELOOP))
    if isinstance(error, RuntimeError) and "home directory" in text:  # of pathlib
        return UserError("a path begins with ~ and its home folder is not known", "write the path without ~")
    if isinstance(error, ValueError) and "embedded null" in text:
        return UserError("a path contains the character NUL", "give another path")
    if isinstance(error, RecursionError) and "JSON" in text:
        return UserError("the JSON file is nested too deeply", "give lists of numbers, or records of plain values")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in text:
        return UserError("a name contains bytes that are not UTF-8", "rename the file, or give another name")
    return None


def _foreign(error: Exception, given: list[str]) -> int:
    usage = getattr(error, "format_message", None)
    if usage is not None:  # a usage error of the command line; its class is private to typer
        message = _plain(str(usage()), error).rstrip(".")
        if not message:  # no command at all: the help was shown
            return UserError.exit_code
        from .core.system.user_paths import remedy_of

        remedy = remedy_of(errno.EACCES) if message.endswith("is not readable") else "`--help` shows what is there"
        return _report(UserError(message + _nearest_command(message, given), remedy), given)
    if isinstance(error, ModuleNotFoundError) and (missing := _not_installed(error)) is not None:
        return _report(missing, given, error)
    if (known := _of_system(error)) is not None:
        return _report(known, given, error)
    where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    message = f"internal error: {type(error).__name__}: {error}{where}"
    return _report(
        RetortError(message, "this is a defect of Retort; run again with --debug and report it"), given, error
    )


def _not_installed(error: ModuleNotFoundError) -> MachineError | None:
    """The error of a package that is missing because its extra was not installed."""
    from .core.system.installation import EXTRA_OF, install_command

    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF:
        return None
    return MachineError(f"this command needs the package `{module}`", install_command(EXTRA_OF[module]))


def _plain(message: str, error: Exception) -> str:
    """The message of a usage error; faults of values, which typer leaves to pydantic, are told in Retort's words."""
    cause, name = error.__cause__, getattr(error, "param_hint", None) or getattr(error, "param", None)
    if cause is None or name is None:
        return message
    from pydantic import ValidationError

    from .core.options.option_types import Options
    from .core.options.recipe import option_faults

    if not isinstance(cause, ValidationError):
        return message
    option = name if isinstance(name, str) else name.opts[-1]
    return f"{option.strip(chr(39))}: {'; '.join(option_faults(Options, cause))}"


def _nearest_command(message: str, given: list[str]) -> str:
    from .core.options.recipe import nearest

    if not message.startswith("No such command") or "Did you mean" in message:
        return ""
    return nearest(given[0], [command.name or "" for command in _app().registered_commands])


def _report(error: RetortError, given: list[str], cause: Exception | None = None) -> int:
    if "--debug" in given:
        traceback.print_exception(cause or error)
    if "--json" in given:
        sys.stdout.write(json.dumps({"error": error.to_dict()}, default=str) + "\n")
    else:
        sys.stderr.write(f"retort: {error}\n")
    return error.exit_code


if __name__ == "__main__":
    main()
