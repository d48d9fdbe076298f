"""Whether bytes begin with frames of MPEG audio (ISO/IEC 11172-3 and 13818-3), before a decoder searches for them.

A decoder tries every byte of what is no frame, at a microsecond each. Part of the runtime half: standard library only.
"""

from __future__ import annotations

_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Thousand bits per second by version and layer, from index 1 on; version 2 has one table for layers II and III."""
_RATES = (44_100, 48_000, 32_000)
_OTHERS = (b"fLaC", b"RIFF", b"FORM", b"OggS")
_MOST_TAGS = 4
_MOST_CANDIDATES = 512
"""Bytes 0xFF behind the tags at which a frame is searched."""


def begins_with_frames(content: bytes) -> bool:
    """Whether a frame is near the start, behind ID3 tags, and another, a tag or the end follows it.

    Tags may also stand before other formats, of which nothing is said here: they count as frames.
    """
    at = 0
    for _ in range(_MOST_TAGS):
        if content[at : at + 3] != b"ID3" or len(content) < at + 10:
            break
        size = content[at + 6 : at + 10]
        at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
        at += 10 if content[at : at + 3] == b"3DI" else 0
    if content[at : at + 4] in _OTHERS:
        return True
    for _ in range(_MOST_CANDIDATES):
        at = content.find(b"\xff", at)
        if at < 0:
            return False
        length = _frame_length(content[at : at + 4])
        if length and _follows(content, at + length):
            return True
        at += 1
    return False


def _follows(content: bytes, at: int) -> bool:
    """Whether a frame, a tag or nothing is behind the first frame."""
    return at >= len(content) or content[at : at + 3] in (b"TAG", b"APE") or bool(_frame_length(content[at : at + 4]))


def _frame_length(header: bytes) -> int:
    """Bytes of the frame with this header; 0 if it is none, or one of a free rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = {3: 1, 2: 2, 0: 3}.get(header[1] >> 3 & 3, 0), 4 - (header[1] >> 1 & 3)
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    if not version or layer == 4 or bits in (0, 15) or rate == 3:
        return 0
    kbits = _KBITS[min(version, 2), layer if version == 1 else min(layer, 2)][bits - 1]
    hertz, padding = _RATES[rate] >> (version - 1), header[2] >> 1 & 1
    if layer == 1:
        return (12_000 * kbits // hertz + padding) * 4
    return (72_000 if layer == 3 and version > 1 else 144_000) * kbits // hertz + padding
