"""Paths that a user gave: what is there instead of what a command needs, and whether a folder can be written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import MissingFileError, StorageError

REMEDIES = {
    errno.ENOENT: "check the path; folders are not created",
    errno.EACCES: "choose a path that you may read and write, or ask its owner for the permission",
    errno.EPERM: "choose a path that you may read and write, or ask its owner for the permission",
    errno.EROFS: "this disk is read-only: choose a folder on another one",
    errno.ENOSPC: "free some space, or choose another disk; finished stages are kept",
    errno.EDQUOT: "your quota is used up: free some space, or choose another disk; finished stages are kept",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "give the path of a file",
    errno.ELOOP: "the links of this path lead in a circle: give the path of the file itself",
    errno.EIO: "the disk reports an error: copy the file to another disk",
    errno.ESTALE: "the network folder was moved or deleted: mount it again",
    errno.EMFILE: "close other programs, or raise the limit of open files with `ulimit -n`",
}
"""What to do about an error of the operating system, by its number."""

PIPE = "is a pipe or a device, not a file"


def remedy_of(code: int | None) -> str:
    """What to do about an error of the operating system at a path."""
    return REMEDIES.get(code or 0, "check the path")


def current_folder_is_gone() -> bool:
    """Whether the folder in which the process runs was deleted."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def what_is_at(path: Path) -> str:
    """What is at a path in words that follow it, such as ``is a folder``; empty for a file that can be read as one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link to something that does not exist" if path.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:  # ValueError: a NUL inside of a name
        text = getattr(error, "strerror", None) or str(error)
        return f"cannot be opened ({text})"
    if stat.S_ISDIR(mode):
        return "is a folder"
    return "" if stat.S_ISREG(mode) else PIPE


def require_file(path: Path, what: str, remedy: str) -> None:
    """Fail if a path is not a file.

    Args:
        what: the file in words, such as ``recipe``.
        remedy: what to do if nothing is there.

    Raises:
        MissingFileError: there is no file; the message says what is there.
    """
    found = what_is_at(path)
    if found == "does not exist":
        raise MissingFileError(f"no such {what}: {path}", remedy)
    if found:
        raise MissingFileError(f"{path} {found}", f"give the path of a {what}")


def require_folder(path: Path, what: str, remedy: str) -> None:
    """Fail if a path is not a folder.

    Args:
        what: the folder in words, such as ``folder of runs``.

    Raises:
        MissingFileError: there is no folder; the message says what is there.
    """
    found = what_is_at(path)
    if found == "does not exist":
        raise MissingFileError(f"no such {what}: {path}", remedy)
    if found != "is a folder":
        raise MissingFileError(f"{path} {found or 'is a file'}, not a {what}", remedy)


_OF_THE_KERNEL = ("/proc", "/sys")


def require_writable(directory: Path) -> None:
    """Fail before any work if a folder cannot be written or created.

    Raises:
        StorageError: the nearest folder that exists is a file, may not be written, or is on a read-only disk.
    """
    try:
        place = directory.absolute()
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        if _is_of_the_kernel(place):
            raise PermissionError(errno.EACCES, "the system keeps no files there", str(place))
        os.lstat(directory)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"{directory} cannot be written: {text}", remedy_of(getattr(error, "errno", None))
        ) from error


def require_utf8(path: Path) -> None:
    """Fail before any work if ONNX and ONNX Runtime cannot open a path, as its name has bytes that are not UTF-8.

    Raises:
        StorageError: it has.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "replace")
        raise StorageError(
            f"{shown} has a name that is not UTF-8, which ONNX Runtime cannot open", "choose another name"
        ) from error


def _is_of_the_kernel(place: Path) -> bool:
    """Whether a folder is one of the kernel's own, such as those in /proc, in which even root can make no folder."""
    return any(place.resolve().is_relative_to(root) for root in _OF_THE_KERNEL)
