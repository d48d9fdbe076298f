"""TensorBoard events of a training: loss, learning rate, validation metric, and histograms of its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ...core.context import Context
from ...core.errors import UserError
from ...core.system.atomic_files import storage_errors
from ...core.system.installation import needed
from .loop import Loop

FOLDER = "tensorboard"


class Events:
    """The events of one training, with one point per epoch; a resumed training replaces what it does again.

    Args:
        folder: where they are written; TensorBoard is started for it or for a folder above it.
        epoch: the number of epochs that are finished.

    Raises:
        MachineError: the package tensorboard is not installed.
        StorageError: the folder is not writable.
    """

    def __init__(self, folder: Path, epoch: int = 0) -> None:
        with needed("tensorboard", "events of a training"):
            import tensorboard as tensorboard  # the next line says less if it is missing
            from torch.utils.tensorboard import SummaryWriter
        self.folder = folder
        with storage_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer: Any = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(self, loop: Loop) -> None:
        """Add the last epoch of a training.

        Raises:
            StorageError: the disk is full.
        """
        at = loop.at
        last = at.history[-1]
        with storage_errors(str(self.folder)):
            self._writer.add_scalar("loss/train", last["loss"], at.epoch)
            self._writer.add_scalar("learning_rate", loop.optimizer.param_groups[0]["lr"], at.epoch)
            if last["metric"] is not None and math.isfinite(last["metric"]):
                self._writer.add_scalar(f"validation/{at.metric}", last["metric"], at.epoch)
            for name, value in loop.program.module.named_parameters():
                if value.is_floating_point() and value.numel() and bool(torch.isfinite(value).all()):
                    self._writer.add_histogram(f"weights/{name}", value.detach().float().cpu(), at.epoch)
            self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def events_folder(context: Context, label: str) -> Path:
    """The folder of the events of a training, in the folder of its run: ``tensorboard/01-train-0123456789ab/train``.

    Raises:
        UserError: the training has no folder.
    """
    if context.scratch is None:
        raise UserError("`tensorboard` needs a folder to write to", "name the folder of the result, or leave it out")
    part = "".join(char if char.isalnum() else "-" for char in label)
    return context.scratch.parents[1] / FOLDER / context.scratch.name / part
