"""The store of all results of devices: a row per device, model, batch size, threads and cores, and none is changed.

SQLite, so that other programs read it, too. A row names the file by its SHA-256, the device by what it said of itself,
the command, and the verdict on the measurement.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ArtifactError, MissingFileError, StorageError
from ...core.system.owned_folders import RUNS
from ...core.system.user_paths import remedy_of
from ..result import LatencyEntry, LatencyRun, Result, StageEntry
from .floor import Floor

DEFAULT = RUNS / "edge.db"
"""The store of the results of all devices."""
VERSION = 3
"""The form of the store, in SQLite's ``user_version``; version 1 had neither a runtime nor an energy, 2 no noise."""
Verdict = Literal["VALID", "NOISY", "THROTTLED"]


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        run: hash of the run on the device, so that results that are pulled twice are stored once.
        device: the device in words.
        fingerprint: hash of what the device said of itself that does not change: board, processor, system and versions.
        precision: ``FP32``, ``FP16`` or ``INT8``, by the weights in the file.
        p99_ms: None with too few calls.
        ratio: how many times faster than ``against``; None for the reference itself.
        metric: name of the metric on the device; empty if no sample was computed.
        verdict: whether a decision may be based on the times, with the ``reasons`` why not.
        runtime: what ran the file, in words; empty in rows of version 1.
        energy_mj: energy of a sample above what the idle device uses; None if it was not measured.
    """

    run: str
    started: str
    command: str
    device: str
    fingerprint: str
    model: str
    sha256: str
    precision: str
    cores: str
    threads: int
    batch: int
    median_ms: float
    low_ms: float | None
    high_ms: float | None
    p99_ms: float | None
    against: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    metric: str
    value: float | None
    drop: float | None
    peak_bytes: int | None
    size_bytes: int
    verdict: Verdict
    reasons: str
    runtime: str = ""
    energy_mj: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))
_FLOOR = tuple(field.name for field in fields(Floor))
_FLOORS = (
    f"CREATE TABLE IF NOT EXISTS floors ({', '.join(_FLOOR)}, UNIQUE (run, runtime, cores, threads) ON CONFLICT IGNORE)"
)
_NAMED = ", ".join(f'"{name}"' for name in COLUMNS)
_FIRST = {*COLUMNS} - {"runtime", "energy_mj"}
"""The columns that version 1 had."""
_KEY = ("run", "model", "cores", "threads", "batch")
_TABLE = f"CREATE TABLE IF NOT EXISTS measurements ({_NAMED}, UNIQUE ({', '.join(_KEY)}) ON CONFLICT IGNORE)"


def rows_of(result: Result, run: str, cores: str, precisions: Mapping[str, str]) -> list[Row]:
    """The rows of one result.

    Args:
        run: what identifies the run on the device.
        precisions: by name of the model.
    """
    device = dict(result.env.get("device") or {})
    fingerprint = fingerprint_of(device)
    found = []
    for run_of_batch in result.runs:
        for stage in result.stages:
            entry = stage.latency.get(run_of_batch.batch)
            if entry is not None:
                common = (run, result.started, result.command, _name(result, device), fingerprint)
                found.append(_row(common, result, stage, entry, run_of_batch, cores, precisions.get(stage.stage, "")))
    return found


def _row(
    common: tuple[str, str, str, str, str],
    result: Result,
    stage: StageEntry,
    entry: LatencyEntry,
    timed: LatencyRun,
    cores: str,
    precision: str,
) -> Row:
    ratio, p99 = entry.ratio, next((one.value_ms for one in entry.percentiles if one.percentile == 99), None)
    throttled = any(reason.startswith("THROTTLED") for reason in timed.noise.reasons)
    verdict: Verdict = "THROTTLED" if throttled else timed.noise.status
    return Row(
        *common,
        model=stage.stage,
        sha256=stage.sha256,
        precision=precision,
        cores=cores,
        threads=timed.threads,
        batch=timed.batch,
        median_ms=float(entry.median_ms.value or 0.0),
        low_ms=entry.median_ms.low,
        high_ms=entry.median_ms.high,
        p99_ms=p99,
        against="" if ratio is None else result.reference,
        ratio=None if ratio is None else ratio.value,
        ratio_low=None if ratio is None else ratio.low,
        ratio_high=None if ratio is None else ratio.high,
        metric="" if stage.metric is None else stage.metric.name,
        value=None if stage.metric is None else stage.metric.value,
        drop=None if stage.drop is None else stage.drop.value,
        peak_bytes=None if stage.memory is None else stage.memory.peak_bytes,
        size_bytes=stage.size_bytes,
        verdict=verdict,
        reasons="; ".join(timed.noise.reasons),
        runtime=stage.runtime,
        energy_mj=None if stage.energy is None else stage.energy.net_mj,
    )


def _name(result: Result, device: Mapping[str, Any]) -> str:
    board = str(device.get("board") or "") or str(result.env["cpu"]["model"])
    return f"{device.get('host', '')} ({board})"


def fingerprint_of(device: Mapping[str, Any]) -> str:
    """A hash of what stays the same between two runs on one device."""
    lasting = ("host", "board", "os", "kernel", "machine", "python", "libc", "cpu", "memory_bytes", "packages")
    kept = {key: device.get(key) for key in lasting}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Store:
    """A file of measurements.

    Args:
        path: the file; it is made by the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, rows: Sequence[Row]) -> int:
        """Append rows; those of a run that is stored already are left out.

        Returns:
            The number of new rows.

        Raises:
            ArtifactError: the file is no store, or one of a later version.
            StorageError: it cannot be written.
        """
        return self._append(f"measurements ({_NAMED})", [astuple(row) for row in rows])

    def add_floors(self, floors: Sequence[Floor]) -> int:
        """Append the noise of devices, as :meth:`add`."""
        return self._append(f"floors ({', '.join(_FLOOR)})", [astuple(one) for one in floors])

    def _append(self, table: str, values: Sequence[tuple[Any, ...]]) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror}", remedy_of(error.errno)) from error
        with self._opened(str(self.path)) as connection:
            self._claim(connection)
            before = connection.total_changes
            for one in values:
                connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(one))})", one)
            return connection.total_changes - before

    def floors(self) -> dict[tuple[str, str, str, int], Floor]:
        """The newest noise of each device, runtime, kind of cores and number of threads; none without a store.

        Raises:
            ArtifactError: the file is no store, or one of a later version.
        """
        if not self.path.is_file():
            return {}
        with self._opened(f"{self.path.resolve().as_uri()}?mode=ro") as connection:
            known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'floors'").fetchone()
            rows = connection.execute(f"SELECT {', '.join(_FLOOR)} FROM floors") if known else []
            found = [Floor(*row) for row in rows]
        return {(one.fingerprint, one.runtime, one.cores, one.threads): one for one in found}

    def rows(self) -> list[Row]:
        """All rows in the order in which they came; the file is not changed.

        Raises:
            MissingFileError: there is no store.
            ArtifactError: the file is no store, or one of a later version.
        """
        if not self.path.is_file():
            raise MissingFileError(f"there is no {self.path}", "measure with `retort edge run`, which writes it")
        with self._opened(f"{self.path.resolve().as_uri()}?mode=ro") as connection:
            present = _present(connection)
            if not present >= _FIRST:
                raise self._foreign("it has no table of ours")
            named = ", ".join(f'"{name}"' for name in COLUMNS if name in present)
            found = [
                dict(zip(named.replace('"', "").split(", "), one, strict=True))
                for one in connection.execute(f"SELECT {named} FROM measurements")
            ]
        return [Row(**{**one, "runtime": one.get("runtime") or ""}) for one in found]

    def _claim(self, connection: sqlite3.Connection) -> None:
        """Make an empty file a store, and one of version 1 one of this version; others stay as they are.

        Raises:
            ArtifactError: it is a database of something else.
        """
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        present = _present(connection)
        if tables and not present >= _FIRST:
            raise self._foreign("it has other tables")
        connection.execute(_TABLE)
        connection.execute(_FLOORS)
        for name in (name for name in COLUMNS if present and name not in present):
            connection.execute(f'ALTER TABLE measurements ADD COLUMN "{name}"')
        connection.execute(f"PRAGMA user_version = {VERSION}")

    def _foreign(self, why: str) -> ArtifactError:
        remedy = "move it away; the next results make a new one"
        return ArtifactError(f"{self.path} is no store of measurements: {why}", remedy)

    @contextmanager
    def _opened(self, where: str) -> Iterator[sqlite3.Connection]:
        try:
            with (
                closing(sqlite3.connect(where, timeout=30, uri=where.startswith("file:"))) as connection,
                connection,
            ):
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    raise ArtifactError(
                        f"{self.path} has version {version}, and this Retort reads {VERSION}", "update Retort"
                    )
                yield connection
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path} cannot be used: {error}", "check the folder and its rights") from error
        except sqlite3.DatabaseError as error:
            raise self._foreign(str(error)) from error


def _present(connection: sqlite3.Connection) -> set[str]:
    """The columns of the table; none if there is no such table."""
    return {str(name) for _, name, *_ in connection.execute("PRAGMA table_info(measurements)")}


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each device, file, runtime, batch size, threads and cores."""
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        found[row.fingerprint, row.sha256, row.runtime, row.cores, row.threads, row.batch] = row
    return list(found.values())
