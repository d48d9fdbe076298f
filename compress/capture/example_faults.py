"""What helps if a model does not run on its example: data arguments of images and texts, and the size of embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from .batch_evidence import other_axis
from .derived_signature import Tensors, other_type
from .flat_module import FlatModule

_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")
_PRODUCT = re.compile(r"shapes cannot be multiplied")
MODES = {1: "L", 3: "RGB"}


def remedy_of(flat: FlatModule, feeds: Tensors, error: Exception) -> str:
    """What helps against the error that a model raised for its example; empty if nothing more is known."""
    return (
        other_type(flat.inner, feeds)
        or small_embedding(flat, feeds, error)
        or _image_arguments(feeds, str(error))
        or (other_axis(feeds) and f"give samples that fit its forward{other_axis(feeds)}")
    )


def small_embedding(flat: FlatModule, feeds: Tensors, error: Exception) -> str:
    """The remedy if an embedding has fewer entries than the ids of the example need; found by a second run."""
    if not isinstance(error, IndexError | RuntimeError) or "index out of range" not in str(error):
        return ""
    with torch.no_grad(), _highest_ids(flat.inner) as found, suppress(type(error)):  # it is raised again
        flat(*(value.clone() for value in feeds.values()))
    for name, (table, highest) in found.items():
        if highest >= table.num_embeddings:
            return (
                f"the embedding '{name}' has {table.num_embeddings} entries, and the ids of these samples need at "
                f"least {highest + 1}, from 0 to {highest}: give it as many entries as the vocabulary has symbols "
                "(`retort data SOURCE` shows the range of the ids)"
            )
    return ""


@contextmanager
def _highest_ids(model: nn.Module) -> Iterator[dict[str, tuple[nn.Embedding, int]]]:
    """The highest id that each embedding is asked for while the model runs."""
    found: dict[str, tuple[nn.Embedding, int]] = {}
    hooks = []
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding):

            def _look(module: nn.Module, given: tuple[torch.Tensor, ...], name: str = name) -> None:
                if isinstance(module, nn.Embedding) and given and given[0].numel():
                    found[name] = (module, int(given[0].max()))

            hooks.append(table.register_forward_pre_hook(_look))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _image_arguments(feeds: Tensors, text: str) -> str:
    """The data arguments of an image folder, if the example is images and the error is one of their shape."""
    image = next((value for value in feeds.values() if value.dim() == 4 and value.shape[1] in MODES), None)
    channels, product = _CHANNELS.search(text), _PRODUCT.search(text)
    if image is None or not (channels or product):
        return ""
    wanted = MODES.get(int(channels[1])) if channels else None
    if channels and wanted is None:
        return f"the model takes images of {channels[1]} channels; images of a folder have 1 (mode L) or 3 (RGB)"
    shown = "×".join(map(str, image.shape[1:]))
    given = f"`mode: {wanted}`, and `size` if it takes another size" if wanted else "`size` and `mode`"
    argument = f"--data-arg mode={wanted}" if wanted else "such as --data-arg size=16 --data-arg mode=L"
    return (
        f"give samples of the shape that its forward takes, instead of {shown}; a folder of images is read in that "
        f"shape with the data arguments {given} (`args` under `data` of a recipe, or {argument})"
    )
