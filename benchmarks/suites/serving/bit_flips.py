"""Flipped bits in the files of a bundle: each is found before the model is opened (goal G13).

Those of an archive, its zip headers included, are flipped by the slow test of ``test_refused_archives.py``.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from .bundle_runtime import PACKAGE, open_runtime
from .findings import Finding, Report, at_least, at_most, figure
from .served_networks import hostile_network, packed

BESIDE = ("manifest.json",)
"""Files of a bundle that no runtime reads."""
SPEED_S = 1.0


def flips(bundle: Path, count: int, seed: int) -> list[tuple[Path, int, int]]:
    """Random bits as file, place and mask: each file has at least one, and larger files have more."""
    generator = random.Random(seed)
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file() and _is_read(path)]
    sizes = [path.stat().st_size for path in files]
    chosen = [path for path, size in zip(files, sizes, strict=True) if size]
    chosen += generator.choices(files, [size**0.5 for size in sizes], k=max(0, count - len(chosen)))
    return [(path, generator.randrange(path.stat().st_size), 1 << generator.randrange(8)) for path in chosen[:count]]


def _is_read(path: Path) -> bool:
    return path.name not in BESIDE and "__pycache__" not in path.parts


def undetected(bundle: Path, check: Callable[[Path], object], chosen: list[tuple[Path, int, int]]) -> list[str]:
    """The flips that a check does not refuse, as file and place; every bit is flipped back."""
    missed = []
    for path, place, mask in chosen:
        whole = path.read_bytes()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        try:
            check(bundle)
            missed.append(f"{path.relative_to(bundle)}:{place}")
        except Exception as error:  # its class is another one in every bundle
            if type(error).__name__ not in ("ArtifactError", "MissingFileError"):
                missed.append(f"{path.relative_to(bundle)}:{place} raised {type(error).__name__}")
        finally:
            path.write_bytes(whole)
    check(bundle)
    return missed


def judged(total: int, missed: list[str], seconds_per_gb: float) -> list[Finding]:
    """The goals of integrity."""
    return [
        at_least("G13", "flipped bits that are found", total - len(missed), total),
        at_most("G13", "time to verify a gigabyte", seconds_per_gb, SPEED_S, "s"),
        figure("flipped bits", total),
    ]


def measure(folder: Path, count: int = 100_000, seed: int = 0) -> Report:
    """Flip bits in a bundle, one after another, and check it with its own runtime each time.

    Args:
        folder: where the model and the bundle are written.
        count: number of bits that are flipped, one after another.
        seed: other bits for another seed.
    """
    sys.dont_write_bytecode = True
    bundle = packed(hostile_network("vector", folder), folder / "flipped-bundle", command="bundle")
    open_runtime(bundle)
    check = import_module(f"{PACKAGE}.serve.bundles.bundled").check_bundle
    chosen = flips(bundle, count, seed)
    missed = undetected(bundle, check, chosen)
    large = folder / "large-bundle"
    findings = judged(len(chosen), missed, _speed_s(check, bundle, large))
    files = len({path for path, _, _ in chosen})
    return Report(
        "bits", f"one bit after another in {files} files, seed {seed}", len(chosen), tuple(findings), {"missed": missed}
    )


def _speed_s(check: Callable[[Path], object], bundle: Path, large: Path) -> float:
    """CPU seconds to verify a gigabyte: a copy of the bundle with a large additional file that is listed."""
    import hashlib
    import shutil

    shutil.copytree(bundle, large, dirs_exist_ok=True)
    content = bytes(1 << 28)
    (large / "model.data").write_bytes(content)
    sums = large / "SHA256SUMS"
    lines = [*sums.read_text().splitlines(), f"{hashlib.sha256(content).hexdigest()}  model.data"]
    sums.write_text("\n".join(sorted(lines, key=lambda line: line.split("  ", 1)[1])) + "\n")
    begin = time.process_time()
    check(large)
    spent = time.process_time() - begin
    shutil.rmtree(large)
    return spent / len(content) * 1e9
