"""What of a served picture's file Pillow gets to see: the parts that make pixels, and not too many of them.

Comments, profiles and animations change no pixel of the first picture, but a file may have a million of them, each of
which costs time or unpacks to a megabyte. Part of the runtime half: standard library only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from ..errors import LimitError

MOST_PARTS = 1024
"""Number of parts that a file may have, besides one per kilobyte."""
MOST_SCANS = 64
"""Number of passes over a JPEG; files of usual programs have up to 20, and each goes through all pixels."""
MOST_TAGS, MOST_STRIPS = 512, 1 << 14
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
"""Those whose decoders need no memory of a size that the file chooses."""
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PPM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+\d{1,9}(?:\s|#[^\n]*\n)+\d{1,9}\s")
_FIRST = 4096


def guarded(content: bytes, where: str) -> bytes:
    """The file without what makes no pixels.

    Args:
        where: the picture in words, for messages.

    Raises:
        LimitError: it has too many parts, or a part has an impossible size.
    """
    for starts, guard in _GUARDS:
        if content.startswith(starts):
            made = guard(content)
            if made is None:
                raise LimitError(
                    f"{where} has far more parts than the files of usual programs", "save it again as a plain PNG"
                )
            return made
    return content


def _png(content: bytes) -> bytes | None:
    kept, at = [_PNG], len(_PNG)
    for _ in range(MOST_PARTS + len(content) // 1024):
        if at + 8 > len(content):
            break
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if kind in _PNG_KEPT:
            kept.append(content[at:end])
        at = end
        if kind == b"IEND":
            break
    else:
        return None
    return b"".join(kept)


def _jpeg(content: bytes) -> bytes | None:
    """The file with the segments before its first pass that say how it is to be decoded."""
    kept, at = [content[:2]], 2
    for _ in range(MOST_PARTS):
        if at + 4 > len(content) or content[at] != 0xFF or content[at + 1] == 0:
            return b"".join(kept)  # Pillow says what is missing
        marker = content[at + 1]
        if marker == 0xDA:
            rest = content[at:]
            return None if rest.count(b"\xff\xda") > MOST_SCANS else b"".join((*kept, rest))
        if marker == 0xFF:
            at += 1
            continue
        end = (
            at + 2
            if marker == 1 or 0xD0 <= marker <= 0xD8
            else at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        )
        if end == at + 2 and marker not in (1, *range(0xD0, 0xD9)):
            return b"".join(kept)
        comment = marker == 0xFE or (0xE0 < marker <= 0xEF and marker != 0xEE)
        if not comment:
            kept.append(content[at:end])
        at = end
    return None


def _gif(content: bytes) -> bytes | None:
    """The file without extensions before the first picture, but for the one that says how it is shown."""
    flags = content[10] if len(content) > 10 else 0
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    kept = [content[:at]]
    for _ in range(MOST_PARTS):
        if content[at : at + 1] != b"!":
            return b"".join((*kept, content[at:]))
        end = at + 2
        for _ in range(MOST_PARTS):
            size = content[end] if end < len(content) else 0
            end += size + 1
            if not size:
                break
        else:
            return None
        if content[at + 1 : at + 2] == b"\xf9":
            kept = [kept[0], content[at:end]]
        at = end
    return None


def _tiff(content: bytes) -> bytes | None:
    """The same file, if the tags of its first picture are of possible sizes."""
    order = "<" if content[:1] == b"I" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    head, entry = (order + "Q", order + "HHQ8s") if big else (order + "H", order + "HHL4s")
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "L"), content, 8 if big else 4)
        (count,) = struct.unpack_from(head, content, at)
        if count > MOST_TAGS:
            return None
        tags = list(
            struct.iter_unpack(entry, _slice(content, at + struct.calcsize(head), count * struct.calcsize(entry)))
        )
    except struct.error:
        return content  # too short, which Pillow says
    values: dict[int, int] = {}
    total = 0
    for tag, kind, number, data in tags:
        unit = _TIFF_UNITS.get(kind, 1)
        total += number * unit
        if unit > 1 and number > MOST_STRIPS:
            return None
        if number == 1 and unit in (2, 4):
            values.setdefault(tag, int.from_bytes(data[:unit], "little" if order == "<" else "big"))
    return content if total <= len(content) + _FIRST and _tiff_fits(values, content) else None


def _tiff_fits(values: dict[int, int], content: bytes) -> bool:
    """Whether the tiles are not much larger than the picture, and the compression is a usual one."""
    width, height, tile = (values.get(256, 0), values.get(257, 0), values.get(322, 0) * values.get(323, 0))
    compression = values.get(259, 1)
    if compression == 7 and content.count(b"\xff\xda") > MOST_SCANS + len(content) // 1024:
        return False
    return compression in _TIFF_COMPRESSIONS and tile <= max(1 << 20, 4 * width * height)


def _slice(content: bytes, at: int, size: int) -> bytes:
    if at + size > len(content):
        raise struct.error("too short")
    return content[at : at + size]


def _ppm(content: bytes) -> bytes | None:
    return content if _PPM.match(content[:_FIRST]) else None


def _jpeg2000(content: bytes) -> bytes | None:
    """The same file, if the box with its sizes is near the start, and is not full of small boxes."""
    at = content.find(b"jp2h", 0, _FIRST)
    return content if at >= 4 and int.from_bytes(content[at - 4 : at], "big") <= 1 << 18 else None


_GUARDS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], bytes | None]], ...] = (
    (_PNG, _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF8", _gif),
    ((b"II", b"MM"), _tiff),
    (tuple(b"P%d" % number for number in range(1, 7)), _ppm),
    (b"\0\0\0\x0cjP  ", _jpeg2000),
)
