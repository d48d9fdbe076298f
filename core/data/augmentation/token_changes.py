"""Transforms of rows of tokens: masking, deletion, shift; special tokens and padding stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...options.augment_options import DropOptions, MaskOptions
from ...options.image_transforms import ShiftOptions
from ...tensors import Array
from .draws import Draws
from .input_kinds import InputForm, TokenForm
from .series_changes import rolled

Rows = dict[str, Array]


def mask(options: MaskOptions, rows: Rows, form: InputForm, draws: Draws) -> Rows:
    """Tokens replaced by the mask token, each with the probability ``share``."""
    ids, token = rows[form.name], options.token if options.token is not None else form.tokens.mask
    hit = _each(draws, ids.shape) < options.share
    return {**rows, form.name: np.where(hit & _ordinary(rows, form), np.asarray(token, ids.dtype), ids)}


def drop(options: DropOptions, rows: Rows, form: InputForm, draws: Draws) -> Rows:
    """Tokens deleted, each with the probability ``share``; one token of every row stays."""
    ordinary = _ordinary(rows, form)
    chance = _each(draws, ordinary.shape)
    gone = ordinary & (chance < options.share)
    whole = gone.sum(axis=1) == _used(rows, form).sum(axis=1)
    gone[whole, np.argmax(np.where(ordinary, chance, -1)[whole], axis=1)] = False
    order = np.argsort(~gone if form.tokens.left else gone, axis=1, kind="stable")
    empty = np.take_along_axis(gone, order, axis=1)
    made = dict(rows)
    for name, fill in _moving(form.tokens, form.name):
        made[name] = np.where(empty, np.asarray(fill, rows[name].dtype), np.take_along_axis(rows[name], order, axis=1))
    if form.tokens.lengths:
        lengths = rows[form.tokens.lengths]
        made[form.tokens.lengths] = lengths - gone.sum(axis=1).reshape(lengths.shape).astype(lengths.dtype)
    return made


def shift(options: ShiftOptions, rows: Rows, form: InputForm, draws: Draws) -> Rows:
    """Rows moved by whole places; padding takes the free places."""
    ids = rows[form.name]
    steps = np.rint(draws.signed(options.share) * ids.shape[1]).astype(np.int64)
    return {**rows, form.name: rolled(ids, steps, np.full(len(ids), form.tokens.pad, ids.dtype))}


def _moving(tokens: TokenForm, name: str) -> list[tuple[str, int]]:
    """The inputs that move with the tokens, and what pads each."""
    return [(each, fill) for each, fill in ((name, tokens.pad), (tokens.attention, 0), (tokens.types, 0)) if each]


def _used(rows: Rows, form: InputForm) -> NDArray[np.bool_]:
    """Which places are no padding."""
    attention = form.tokens.attention
    found: NDArray[np.bool_] = rows[attention] != 0 if attention else rows[form.name] != form.tokens.pad
    return found


def _ordinary(rows: Rows, form: InputForm) -> NDArray[np.bool_]:
    """Which places are neither padding nor special tokens."""
    found: NDArray[np.bool_] = _used(rows, form) & ~np.isin(rows[form.name], form.tokens.special)
    return found


def _each(draws: Draws, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A number from 0 to 1 for every place of every row."""
    return np.stack([generator.random(shape[1]) for generator in draws.generators()])
