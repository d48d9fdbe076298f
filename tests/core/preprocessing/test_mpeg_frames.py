"""MPEG audio is known by its frames; what only begins like it is refused before a decoder searches it."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import pytest

from retort.core.errors import DataError
from retort.core.preprocessing.decode_sounds import read_sound
from retort.core.preprocessing.mpeg_frames import begins_with_frames
from retort.core.preprocessing.specs import SoundInput

MEGABYTE = 1 << 20
NO_FRAMES = {
    "headers without frames": b"\xff\xfb\x90\x00" * (MEGABYTE // 4),
    "sync words": b"\xff\xfb" * (MEGABYTE // 2),
    "zeros behind a header": b"\xff\xfb\x90\x00" + bytes(MEGABYTE),
    "tags": b"ID3\4\0\0\0\0\0\0" * (MEGABYTE // 10),
    "headers behind a tag": b"ID3\4\0\0\0\0\0\0" + b"\xff\xf3\x90\x00" * (MEGABYTE // 4),
}


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Half a second of noise as MP3."""
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).uniform(-0.3, 0.3, 22_050).astype("f4"), 44_100, format="MP3")
    return stream.getvalue()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_encoded_recordings_have_frames(rate: int) -> None:
    """Each sample rate of the three versions is known by a real encoder's frames."""
    soundfile = pytest.importorskip("soundfile")
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).uniform(-0.3, 0.3, 8000).astype("f4"), rate, format="MP3")
    assert begins_with_frames(stream.getvalue())


def test_tags_and_rubbish_before_and_behind(recording: bytes) -> None:
    """A tag, another behind it, some zeros, and the tag at the end change nothing."""
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    one_frame = recording[: recording.index(b"\xff", 4)]
    assert begins_with_frames(tag + tag + bytes(300) + recording)  # libsndfile itself skips one tag
    for content in (tag + recording, recording + b"TAG" + bytes(125)):
        assert begins_with_frames(content)
        read = read_sound(io.BytesIO(content), "it", SoundInput(), file_bytes=len(content))
        assert len(read) == pytest.approx(8_000, abs=1_000)
    assert begins_with_frames(tag + b"fLaC")
    assert not begins_with_frames(tag + one_frame[:3])


@pytest.mark.parametrize("content", NO_FRAMES.values(), ids=NO_FRAMES)
def test_what_only_begins_like_a_recording_is_refused_at_once(content: bytes, recording: bytes) -> None:
    """A megabyte without frames costs less than reading half a second of sound."""
    with pytest.raises(DataError, match="no MPEG frames"):
        read_sound(io.BytesIO(content), "it", SoundInput(), file_bytes=len(content))

    def cost(read: bytes) -> float:
        start = time.thread_time()
        with contextlib.suppress(DataError):
            read_sound(io.BytesIO(read), "it", SoundInput(), file_bytes=len(read))
        return time.thread_time() - start

    cost(recording)
    assert min(cost(content) for _ in range(5)) < 3 * min(cost(recording) for _ in range(5))


def test_messages_name_no_file_number(recording: bytes) -> None:
    """A damaged recording is named in words, and not by the number under which it is open."""
    content = b"RIFF\0\0\0\0WAVE" + bytes(100)
    with pytest.raises(DataError) as caught:
        read_sound(io.BytesIO(content), "the part 'sound'", SoundInput(), file_bytes=len(content))
    assert "opening" not in caught.value.message
    assert caught.value.message.startswith("the part 'sound' is not a readable recording: Error in WAV file")
