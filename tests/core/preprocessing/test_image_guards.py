"""Guards of served pictures: files that cost far more than they say are refused before their pixels are unpacked."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from retort.core.errors import InputError, LimitError
from retort.core.preprocessing.image_guards import guarded
from retort.core.preprocessing.sample_reader import SampleReader
from retort.core.preprocessing.specs import ImageInput
from retort.core.signature import Signature
from retort.core.tensors import Array, TensorSpec

SPEC = ImageInput("image", (8, 8), resize=9)
SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 3, 8, 8)),),
    (TensorSpec("y", "float32", ("batch", 2)),),
    preprocessing=(SPEC,),
)
PIXELS = np.random.default_rng(0).integers(0, 255, (11, 14, 3), np.uint8)


def _file(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(stream, kind, **options)
    return stream.getvalue()


def _read(*files: bytes) -> Array:
    return SampleReader(SIGNATURE).read({"image": files}).feeds["image"]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes) -> bytes:
    content = _file("PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def _jpeg(segments: bytes) -> bytes:
    content = _file("JPEG")
    return content[:2] + segments + content[2:]


def _gif(blocks: bytes) -> bytes:
    content = _file("GIF")
    at = 13 + (3 << (content[10] & 7) + 1)  # behind the colours
    return content[:at] + blocks + content[at:]


def _scans() -> bytes:
    content = _file("JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    scan = content[at:-2]
    return content[:-2] + scan * 200 + content[-2:]


def _tiff(*entries: tuple[int, int, int, int]) -> bytes:
    tags = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + tags + bytes(500)


SIZE = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1)]
COSTLY: dict[str, Callable[[], bytes]] = {
    "png of empty chunks": lambda: _png(_chunk(b"abCd", b"") * 9000),
    "jpeg of empty segments": lambda: _jpeg(b"\xff\xec\0\x02" * 9000),
    "jpeg of fill bytes": lambda: _jpeg(b"\xff" * 9000),
    "jpeg of many scans": _scans,
    "gif of empty comments": lambda: _gif(b"!\xfe\x01a\0" * 9000),
    "gif of a comment in pieces": lambda: _gif(b"!\xfe" + b"\x01a" * 9000 + b"\0"),
    "tiff of many tags": lambda: _tiff(*SIZE, *((number, 4, 1, 8) for number in range(1000, 9000))),
    "tiff of overlapping tags": lambda: _tiff(*SIZE, *((number, 1, 600, 8) for number in range(1000, 1100))),
    "tiff of many strips": lambda: _tiff(*SIZE, (273, 4, 60_000, 8)),
    "tiff of huge tiles": lambda: _tiff(*SIZE, (322, 4, 1, 32_752), (323, 4, 1, 32_752)),
    "tiff whose decoder has a window": lambda: _tiff(*SIZE, (259, 3, 1, 34_925)),
    "ppm of a comment": lambda: b"P5 #" + b"a" * 9000,
    "ppm of another range": lambda: b"P5 300 300 254\n" + bytes(90_000),
    "ppm as text": lambda: b"P3 180 180 255\n" + b"1 " * 97_200,
    "bmp of runs": lambda: _runs(),
    "jpeg 2000 of boxes": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 9000,
    "png of many pixels": lambda: _file("PNG", Image.new("L", (3600, 3600))),
    "webp of many pixels": lambda: _file("WEBP", Image.new("RGB", (3600, 3600)), lossless=True),
}


def _runs() -> bytes:
    data, start = b"\x02\x00" * 40_000, 14 + 40 + 1024
    head = struct.pack("<LllHHLLllLL", 40, 300, 300, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<LHHL", start + len(data), 0, 0, start) + head + bytes(1024) + data


@pytest.mark.parametrize("name", COSTLY)
def test_costly_files_are_refused(name: str) -> None:
    """Each of the files that make a decoder work for minutes, or take gigabytes, is refused with a remedy."""
    with pytest.raises(LimitError) as caught:
        _read(COSTLY[name]())
    assert caught.value.remedy


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000", "AVIF"])
def test_usual_files_are_read_as_pillow_reads_them(kind: str) -> None:
    """Of every format, in colour and grey, the guarded file has the pixels of the whole one."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    for image in (Image.fromarray(PIXELS), Image.fromarray(PIXELS).convert("L")):
        content = _file(kind, image)
        with Image.open(io.BytesIO(content)) as whole, Image.open(io.BytesIO(guarded(content, "it"))) as kept:
            np.testing.assert_array_equal(np.asarray(whole.convert("RGB")), np.asarray(kept.convert("RGB")))


def test_parts_without_pixels_are_left_out() -> None:
    """Profiles, texts and comments that unpack to megabytes are gone; the pixels and the transparency stay."""
    bomb = _chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))
    assert guarded(_png(bomb * 100), "it") == guarded(_file("PNG"), "it")
    exif = b"\xff\xe1\xff\xff" + bytes(65_533)
    assert guarded(_jpeg(exif * 20), "it") == guarded(_file("JPEG"), "it")
    assert guarded(_gif(b"!\xfe\x01a\0" * 20), "it") == guarded(_file("GIF"), "it")
    assert np.array_equal(_read(_png(bomb)), _read(_file("PNG")))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_cut_files_are_faults_of_the_request(kind: str) -> None:
    """A file that ends anywhere is read, or refused as a damaged image."""
    content, said = _file(kind), []
    for end in range(len(content) - 1, 0, -max(1, len(content) // 60)):
        try:
            _read(content[:end])
        except (InputError, LimitError) as error:
            said.append(error.message)
    assert said
    assert all(one.startswith("the image") for one in said)


def test_pixels_of_all_pictures_count_together() -> None:
    """Many small files of large pictures are refused before one is unpacked."""
    one = _file("PNG", Image.new("L", (1800, 1800)))
    with pytest.raises(LimitError, match=r"million pixels in 8 pictures"):
        _read(*[one] * 8)
    assert _read(one).shape == (1, 3, 8, 8)


def test_a_thin_line_is_resized_only_where_it_is_kept() -> None:
    """A picture of one row gives its middle, without the row that its resized form would have."""
    line = np.zeros((1, 200_000), np.uint8)
    line[0, 99_990:100_010] = 200
    found = _read(_file("PNG", Image.fromarray(line)))
    assert found.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(found, 200 / 255, atol=1e-6)


def test_pillow_writes_nothing_about_damaged_files() -> None:
    """A picture of too many samples per pixel is refused in words of ours, and Pillow logs nothing on stderr."""
    code = "import sys; from retort.core.preprocessing.decode_images import open_served; "
    code += "open_served(sys.stdin.buffer.read(), 'it')"
    content = _tiff(*SIZE[:2], (258, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 100))
    run = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=False)
    assert b"it is not a readable image" in run.stderr
    assert b"samples per pixel" not in run.stderr
