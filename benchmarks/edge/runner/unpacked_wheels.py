"""The wheels of a bundle, unpacked beside it without pip, for a device that has no numpy and no ONNX Runtime."""

from __future__ import annotations

import compileall
import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SITE = "site"
"""Folder of the unpacked packages in the folder of the bundle."""


def site_of(folder: Path, wheels: Mapping[str, Any]) -> Path:
    """The folder of the packages, which are unpacked if they are not there yet.

    Raises:
        ValueError: they are for another processor or Python.
    """
    here, python = platform.machine(), "{}.{}".format(*sys.version_info)
    if (here, python) != (wheels["machine"], wheels["python"]):
        raise ValueError(
            f"the wheels in the bundle are for {wheels['machine']} and Python {wheels['python']}, and this is {here} "
            f"with Python {python}; write it with --wheels {here} --wheels-python {python}"
        )
    site, mark = folder / SITE, folder / SITE / ".unpacked"
    wanted = json.dumps(wheels["files"])
    if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(site, ignore_errors=True)
        for name in wheels["files"]:
            _unpack(folder / name, site)
        compileall.compile_dir(site, quiet=2)  # as installers do: an import would compile again in every process
        mark.write_text(wanted, encoding="utf-8")
    return site


def _unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel as installers do, without its scripts (PEP 427)."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            parts = entry.filename.split("/")
            if parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if entry.is_dir() or ".." in parts:
                continue
            path = site.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)


def add(site: Path) -> None:
    """Let this process and its children import from the folder, before all others."""
    sys.path.insert(0, str(site))
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([known] if known else [])])
