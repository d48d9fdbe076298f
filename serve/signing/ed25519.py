"""Ed25519 (RFC 8032) in pure Python: public keys, signatures and their verification, in a few milliseconds each.

Verification is strict where RFC 8032 leaves a choice: ``S`` must be below the order of the group, so that no second
form of a signature is valid; points must be encoded canonically; keys of small order, whose signatures fit any message,
are refused; and the equation is the one with the cofactor, ``[8][S]B = [8]R + [8][k]A`` (section 5.1.7). Signing does
not take the same time for every key: it belongs on a machine that others cannot measure.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_Point: TypeAlias = tuple[int, int, int, int]
"""Extended coordinates ``(X, Y, Z, T)`` with ``x = X/Z``, ``y = Y/Z`` and ``xy = T/Z`` (section 5.1.4)."""
_NEUTRAL: _Point = (0, 1, 1, 0)


def public_key(seed: bytes) -> bytes:
    """The public key, 32 bytes, of a private key, which is a seed of 32 random bytes (section 5.1.5)."""
    scalar, _ = _expanded(seed)
    return _encode(_multiple(scalar, _BASE))


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message, 64 bytes, the same each time (section 5.1.6).

    Args:
        seed: the private key, 32 bytes.
    """
    scalar, prefix = _expanded(seed)
    r = _hash(prefix, message) % _L
    point = _encode(_multiple(r, _BASE))
    s = (r + _hash(point, public_key(seed), message) * scalar) % _L
    return point + s.to_bytes(32, "little")


def is_public_key(content: bytes) -> bool:
    """Whether 32 bytes are a point that can be a public key: encoded canonically, and not of small order."""
    point = _decode(content)
    return point is not None and not _is_neutral(_times_eight(point))


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature of 64 bytes is that of a message by the private key of ``key`` (section 5.1.7)."""
    a, r, s = _decode(key), _decode(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or len(signature) != 64 or s >= _L or _is_neutral(_times_eight(a)):
        return False
    k = _hash(signature[:32], key, message) % _L
    # [S]B - [k]A - R, whose multiple of the cofactor is neutral if the equation holds
    return _is_neutral(_times_eight(_add(_sum_of_multiples(s, _BASE, k, _negative(a)), _negative(r))))


def _expanded(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    return scalar, digest[32:]


def _hash(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def _decode(content: bytes) -> _Point | None:
    """The point of 32 bytes (section 5.1.3); None if there is none, or if it has another encoding."""
    number = int.from_bytes(content, "little")
    y, odd = number & ((1 << 255) - 1), number >> 255
    if len(content) != 32 or y >= _P:
        return None
    # x² = u/v
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x - u) % _P:
        x = x * _ROOT % _P
    if (v * x * x - u) % _P or (x == 0 and odd):
        return None
    x = x if x & 1 == odd else _P - x
    return x, y, 1, x * y % _P


def _encode(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    return (y * inverse % _P | (x * inverse % _P & 1) << 255).to_bytes(32, "little")


def _add(one: _Point, other: _Point) -> _Point:
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * t1 * t2 * _D % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(point: _Point) -> _Point:
    x, y, z, _ = point
    a, b = x * x % _P, y * y % _P
    h = a + b
    e, g = h - (x + y) * (x + y) % _P, a - b
    f = 2 * z * z % _P + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _negative(point: _Point) -> _Point:
    x, y, z, t = point
    return -x, y, z, -t


def _times_eight(point: _Point) -> _Point:
    return _double(_double(_double(point)))


def _is_neutral(point: _Point) -> bool:
    x, y, z, _ = point
    return x % _P == 0 and (y - z) % _P == 0


def _multiple(factor: int, point: _Point) -> _Point:
    return _sum_of_multiples(factor, point, 0, _NEUTRAL)


def _sum_of_multiples(m: int, one: _Point, n: int, other: _Point) -> _Point:
    """``[m]one + [n]other``, with the doublings of both at once, two bits of each at a time."""
    ones, others = ([_NEUTRAL, point, _double(point), _add(_double(point), point)] for point in (one, other))
    table = [[_add(a, b) for b in others] for a in ones]
    total = _NEUTRAL
    for bit in range((max(m.bit_length(), n.bit_length()) + 1) // 2 * 2 - 2, -1, -2):
        total = _double(_double(total))
        if m >> bit & 3 or n >> bit & 3:
            total = _add(total, table[m >> bit & 3][n >> bit & 3])
    return total


def _base_point() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert point is not None  # y = 4/5, x even (section 5.1)
    return point


_BASE = _base_point()
