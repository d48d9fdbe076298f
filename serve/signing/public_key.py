"""Public keys in PEM files, as `retort keys` and OpenSSL write them, and the key ids by which people know them.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import MissingFileError, UserError
from .ed25519 import is_public_key

PRIVATE, PUBLIC = "PRIVATE KEY", "PUBLIC KEY"
REMEDY = "give a file that `retort keys` wrote, or an Ed25519 key in PEM form"
_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4)."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]*)-----END \1-----")
_LARGEST_BYTES = 1 << 16


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key of 32 bytes."""

    content: bytes

    @property
    def key_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the key."""
        return hashlib.sha256(self.content).hexdigest()[:16]

    def to_pem(self) -> str:
        """The content of a file of this key; OpenSSL skips the first line."""
        return f"Key id: {self.key_id}\n{pem_block(PUBLIC, _PREFIX + self.content)}"


def read_public_keys(path: Path) -> tuple[PublicKey, ...]:
    """The keys of a PEM file, which may have several.

    Raises:
        MissingFileError: there is no such file.
        UserError: it has no key, or something else than public Ed25519 keys.
    """
    blocks = read_blocks(path)
    if any(PRIVATE in kind for kind, _ in blocks):
        remedy = "give the public key, whose name ends in .pub, and keep the private one where you sign"
        raise UserError(f"{path} is a private key, and a server needs only the public one", remedy)
    keys = tuple(PublicKey(content.removeprefix(_PREFIX)) for kind, content in blocks if kind == PUBLIC)
    if not keys or len(keys) < len(blocks) or not all(is_public_key(key.content) for key in keys):
        raise UserError(f"{path} is no public key of Ed25519", REMEDY)
    return keys


def read_blocks(path: Path) -> list[tuple[str, bytes]]:
    """The blocks of a PEM file: their labels and their contents, which are empty where they are no base64.

    Raises:
        MissingFileError: there is no such file.
        UserError: it cannot be read, or is too large for a key.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingFileError(
            f"no such key: {path}", "check the path, or make a key pair with `retort keys`"
        ) from error
    except OSError as error:
        raise UserError(f"the key {path} cannot be read: {error.strerror}", REMEDY) from error
    found = _BLOCK.findall(text.decode("ascii", "replace")) if len(text) <= _LARGEST_BYTES else []
    return [(label, _unpacked(body)) for label, body in found]


def pem_block(label: str, content: bytes) -> str:
    """A block of a PEM file (RFC 7468)."""
    text = base64.b64encode(content).decode()
    lines = "".join(f"{text[start : start + 64]}\n" for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n"


def _unpacked(body: str) -> bytes:
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error:
        return b""
