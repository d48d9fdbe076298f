"""Private keys: how a pair is made, how a key is read where models are packed, and how it signs their checksums.

A private key never leaves its file: results, their keys and logs have only the id of its public key.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ...core.console import SILENT, Console
from ...core.errors import UserError
from ...core.system.atomic_files import storage_errors
from .ed25519 import public_key, sign
from .public_key import PRIVATE, PUBLIC, REMEDY, PublicKey, pem_block, read_blocks
from .trust import signature_line

_PREFIX = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 7)."""


@dataclass(frozen=True)
class PrivateKey:
    """An Ed25519 private key, a seed of 32 bytes, which is not shown."""

    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The key that verifies its signatures."""
        return PublicKey(public_key(self.seed))

    def sign(self, sums: bytes) -> bytes:
        """The content of ``SHA256SUMS.sig`` for the content of ``SHA256SUMS``, the same each time."""
        return signature_line(self.public.key_id, sign(self.seed, sums))


def make_pair(folder: Path, name: str) -> tuple[Path, Path, PublicKey]:
    """Write a new pair: ``NAME.key``, which its owner alone can read, and ``NAME.pub``.

    Returns:
        Both paths, the private one first, and the public key.

    Raises:
        UserError: one of the files exists; keys are never replaced.
        StorageError: the folder is not writable.
    """
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists, and keys are never replaced", "give another --out or --name")
    key = PrivateKey(secrets.token_bytes(32))
    _create(private, pem_block(PRIVATE, _PREFIX + key.seed), 0o600)
    _create(public, key.public.to_pem(), 0o644)
    return private, public, key.public


def _create(path: Path, text: str, mode: int) -> None:
    with (
        storage_errors(str(path)),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file,
    ):
        file.write(text)


def read_private_key(path: Path, console: Console = SILENT) -> PrivateKey:
    """The key of a PEM file; it warns if other users can read it.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is no private Ed25519 key.
    """
    blocks = read_blocks(path)
    labels = {label for label, _ in blocks}
    if labels == {PUBLIC}:
        raise UserError(f"{path} is a public key, and only the private one can sign", "give the file that ends in .key")
    if labels - {PRIVATE} and any(PRIVATE in label for label in labels):
        remedy = "write it as plain PKCS #8: `openssl pkey -in KEY -out signing.key`, and protect it with its mode, 600"
        raise UserError(f"{path} is a private key that is encrypted or has an old form", remedy)
    if len(blocks) != 1 or not blocks[0][1].startswith(_PREFIX) or len(blocks[0][1]) != len(_PREFIX) + 32:
        raise UserError(f"{path} is no private key of Ed25519", REMEDY)
    if os.name == "posix" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        console.warn(f"other users can read the private key {path} (mode {mode:o}): chmod 600 {path}")
    return PrivateKey(blocks[0][1].removeprefix(_PREFIX))
