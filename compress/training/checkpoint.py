"""Checkpoints from which an interrupted training resumes bit for bit; they contain no pickled class."""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.artifact import stable_hash
from ...core.console import Console
from ...core.errors import StorageError
from ...core.options.stage_options import TrainOptions
from ...core.system.atomic_files import storage_errors, write_atomically

State = dict[str, Any]
SUFFIX = ".checkpoint"


def checkpoint_path(scratch: Path, label: str) -> Path:
    """Path of the checkpoint of the training called ``label``."""
    return scratch / f"{''.join(char if char.isalnum() else '-' for char in label)}{SUFFIX}"


def save_checkpoint(path: Path, identity: str, state: State) -> None:
    """Write a checkpoint atomically.

    Args:
        identity: hash of everything that determines the training; a checkpoint with another hash is not used.

    Raises:
        StorageError: the disk is full or not writable.
    """
    buffer = io.BytesIO()  # torch aborts the whole process if the disk becomes full
    torch.save({"identity": identity, "state": state}, buffer)
    with storage_errors(str(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


class Checkpoints:
    """The checkpoints of one training, each of which replaces the one before.

    Args:
        path: where they are written; None writes none.
        identity: hash of everything that determines the training.

    Attributes:
        saved: where the training was at the last one, in words; empty before the first.
    """

    def __init__(self, path: Path | None, identity: str, options: TrainOptions) -> None:
        self.path, self._identity, self._options = path, identity, options
        self.saved, self._step, self._time_s = "", 0, time.monotonic()

    def load(self, console: Console) -> State | None:
        """The state of an interrupted training, or None."""
        return load_checkpoint(self.path, self._identity, console) if self.path else None

    def continued(self, epoch: int, position: int, step: int) -> None:
        """The training goes on after this epoch, and this step of the next one."""
        self.saved, self._step = self._words(epoch, position), step

    def due_in_epoch(self, step: int) -> bool:
        """Whether a checkpoint is due inside an epoch, by steps or by time."""
        if self.path is None:
            return False
        steps, minutes = self._options.checkpoint_steps, self._options.checkpoint_minutes
        by_steps = steps is not None and step - self._step >= steps
        return by_steps or time.monotonic() - self._time_s >= 60 * minutes

    def due_after(self, epoch: int, finished: bool) -> bool:
        """Whether a checkpoint is due after an epoch."""
        return self.path is not None and (finished or epoch % self._options.checkpoint_epochs == 0)

    def save(self, state: State) -> None:
        """Write a checkpoint; the one before is kept if that fails.

        Raises:
            StorageError: the disk is full or not writable.
        """
        assert self.path is not None
        at = state["progress"]
        try:
            save_checkpoint(self.path, self._identity, state)
        except StorageError as error:
            error.message += f"; {self.kept()}"
            error.args = (error.message,)
            raise
        self.continued(at["epoch"], at["position"], at["step"])
        self._time_s = time.monotonic()

    def kept(self) -> str:
        """``the checkpoint after epoch 3 of 10 is kept``."""
        if not self.saved:
            return "no checkpoint was written before, so that it begins again"
        return f"the checkpoint {self.saved} is kept"

    def _words(self, epoch: int, position: int) -> str:
        inside = f"step {position} of " if position else "epoch "
        place = f"epoch {epoch + 1}" if position else f"{epoch} of {self._options.epochs}"
        return f"after {inside}{place}" if epoch or position else ""


def load_checkpoint(path: Path, identity: str, console: Console) -> State | None:
    """The state of an interrupted training, or None if there is no checkpoint of this training."""
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        found, state = stored["identity"], stored["state"]
    except Exception as error:  # a damaged file can raise any exception
        console.warn(f"{path} cannot be read ({type(error).__name__}), so training starts from the beginning")
        return None
    if found != identity:
        console.warn(f"{path} belongs to another training, so this training starts from the beginning")
        return None
    result: State = state
    return result


def discard(scratch: Path | None, label: str) -> None:
    """Delete the checkpoint of a training whose result has been written."""
    if scratch is None:
        return
    path = checkpoint_path(scratch, label)
    for leftover in [path, *path.parent.glob(f".{path.name}.*.tmp")]:
        leftover.unlink(missing_ok=True)


def state_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Hash of names and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity_of(**parts: object) -> str:
    """Hash of everything that determines a training."""
    return stable_hash({**parts, "torch": torch.__version__})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random generators within this context, and restore their states afterwards."""
    before = random_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        restore_random(before)


def random_state() -> State:
    """The state of torch's, numpy's and Python's generators, as plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def restore_random(state: State) -> None:
    """Inverse of :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
