"""Recordings as arrays: headers that lie cost nothing, and what is behind the length has no influence."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest

from retort.core.errors import DataError, LimitError
from retort.core.preprocessing.decode_sounds import read_sound
from retort.core.preprocessing.sample_reader import SampleReader
from retort.core.preprocessing.specs import SoundInput
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

ONE_SECOND = SoundInput(sample_rate=16_000, seconds=1.0)
ANY = SoundInput(sample_rate=16_000)


def _wav(samples: np.ndarray[Any, Any], rate: int = 16_000, said: int | None = None) -> bytes:
    data = samples.astype("<i2").tobytes()
    head = struct.pack("<LHHLLHH", 16, 1, 1, rate, (2 * rate) & 0xFFFFFFFF, 2, 16)
    size = len(data) if said is None else said
    return b"RIFF" + struct.pack("<L", 36 + len(data)) + b"WAVEfmt " + head + b"data" + struct.pack("<L", size) + data


def _served(content: bytes, spec: SoundInput) -> np.ndarray[Any, Any]:
    return read_sound(io.BytesIO(content), "it", spec, file_bytes=len(content))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_what_is_behind_the_length_is_not_read(rate: int) -> None:
    """A long recording gives bit for bit what it gives if all of it is resampled before it is cut."""
    sound = np.random.default_rng(1).integers(-9000, 9000, 3 * rate)
    whole = _served(_wav(sound, rate), ANY)[:16_000]
    np.testing.assert_array_equal(_served(_wav(sound, rate), ONE_SECOND), whole)


@pytest.mark.parametrize("rate", [1, 1_100_000, 2**31 - 1])
def test_odd_sample_rates_are_refused(rate: int) -> None:
    """A rate that no recorder has is refused by the header."""
    with pytest.raises(LimitError):
        _served(_wav(np.zeros(20_000), rate), ANY)


def test_lying_sizes_give_what_is_there() -> None:
    """A file that says it has gigabytes gives the samples that it has."""
    found = _served(_wav(np.full(100, 3277), said=2**31 - 100), ONE_SECOND)
    assert found.shape == (16_000,)
    assert np.allclose(found[:100], 0.1, atol=1e-3)
    assert not found[100:].any()


def test_silence_that_packs_well_is_limited() -> None:
    """A small file of very many samples is refused without a length, and read up to it with one."""
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(9_000_000, np.int16), 16_000, format="FLAC")
    with pytest.raises(LimitError, match="send at most"):
        _served(stream.getvalue(), ANY)
    assert _served(stream.getvalue(), ONE_SECOND).shape == (16_000,)


def test_cut_files_are_damaged_or_shorter() -> None:
    """A file that ends anywhere is read or refused."""
    content = _wav(np.arange(100))
    shapes, said = set(), []
    for end in range(len(content)):
        try:
            shapes.add(_served(content[:end], ONE_SECOND).shape)
        except DataError as error:
            said.append(error.message)
    assert shapes <= {(16_000,)}
    assert all("not a readable recording" in one or "empty" in one for one in said)


def test_recordings_of_different_lengths_are_told_apart() -> None:
    """Two recordings that cannot be one array are a fault of the request."""
    signature = Signature(
        (TensorSpec("audio", "float32", ("batch", "samples")),),
        (TensorSpec("y", "float32", ("batch", 2)),),
        preprocessing=(ANY,),
    )
    with pytest.raises(Exception, match="different lengths"):
        SampleReader(signature).read({"audio": [_wav(np.zeros(50)), _wav(np.zeros(60))]})
