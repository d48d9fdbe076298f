"""Which keys a server trusts, and what it does with an archive or a bundle that none of them has signed (serve.md H6).

The keys come from the configuration of the server, never from what it loads. Part of the runtime half: standard library
only.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ...core.errors import ArtifactError, UserError
from .ed25519 import verify
from .public_key import PublicKey, read_public_keys

Mode = Literal["off", "warn", "require"]
TRUST, SIGNATURES = "RETORT_TRUST", "RETORT_SIGNATURES"
"""Environment variables of a server: the files of its trusted keys, and what it does without a valid signature."""
LARGEST_LINE = 256
"""More bytes than a signature file has."""
_LINE = re.compile(rb"ed25519 ([0-9a-f]{16}) ([0-9a-f]{128})\n")
_log = logging.getLogger("retort.serve")


@dataclass(frozen=True)
class Signer:
    """Who signed an archive or a bundle.

    Attributes:
        key_id: id of the key, as the signature says.
        verified: whether the signature was verified with a trusted key; without, anyone may have written it.
    """

    key_id: str
    verified: bool

    def describe(self) -> str:
        """In words."""
        return f"key {self.key_id}" + ("" if self.verified else " (not verified)")


@dataclass(frozen=True)
class Trust:
    """The keys that a server trusts.

    Attributes:
        mode: what happens without a valid signature of one of the keys: nothing, a warning, or a refusal.
    """

    keys: tuple[PublicKey, ...] = ()
    mode: Mode = "off"

    @staticmethod
    def chosen(
        files: Sequence[str | Path] = (), mode: Mode | None = None, environment: Mapping[str, str] | None = None
    ) -> Trust:
        """The trust that was given, and for what was not given that of the environment.

        Args:
            files: files of public keys; empty for those of the environment.
            mode: None for ``require`` with given files; else for that of the environment, which without the variable is
                ``require`` with keys, and else ``off``.
            environment: by default that of this process.

        Raises:
            MissingFileError: there is no such file.
            UserError: a file has no public key, there is no such mode, or signatures are wanted without any key.
        """
        own = os.environ if environment is None else environment
        wanted = files or [name for name in own.get(TRUST, "").split(os.pathsep) if name]
        told = mode or ("" if files else own.get(SIGNATURES, "")) or ("require" if wanted else "off")
        if told not in get_args(Mode):
            raise UserError(f"{SIGNATURES} is '{told[:40]}'", f"set it to one of {', '.join(get_args(Mode))}")
        keys = tuple(key for name in wanted for key in read_public_keys(Path(name)))
        if told != "off" and not keys:
            raise UserError(
                "signatures are wanted, but no key is trusted", f"give --trust PUBLIC_KEY, or set {TRUST} to its file"
            )
        return Trust(keys, told)  # type: ignore[arg-type]

    def environment(self, file: Path) -> dict[str, str]:
        """Environment variables for the workers of a server, which has :meth:`to_pem` in ``file``."""
        return {TRUST: str(file) if self.keys else "", SIGNATURES: self.mode}

    def to_pem(self) -> bytes:
        """The keys as the content of one file."""
        return "".join(key.to_pem() for key in self.keys).encode()

    def check(
        self, what: str, sums: bytes, line: bytes | None, warn: Callable[[str], object] = _log.warning
    ) -> Signer | None:
        """Verify a signature once, before anything that its checksums cover is used.

        Args:
            what: the archive or the bundle, for messages.
            sums: content of ``SHA256SUMS``.
            line: content of ``SHA256SUMS.sig``; None without that file.

        Returns:
            Who signed it; None if nobody did.

        Raises:
            ArtifactError: the signature file is damaged; or, in the mode ``require``, it is missing, is of another key,
                or belongs to other checksums.
        """
        found = None if line is None else _LINE.fullmatch(line)
        if line is not None and found is None:
            raise ArtifactError(f"{what} has a damaged signature (SHA256SUMS.sig)", "copy it again, or sign it again")
        key_id, signature = (found[1].decode(), bytes.fromhex(found[2].decode())) if found else ("", b"")
        fault = None if self.mode == "off" else self._fault(what, sums, key_id, signature)
        if fault is not None and self.mode == "require":
            raise fault
        if fault is not None:
            warn(f"{fault.message}; it is taken because signatures only warn here")
        return Signer(key_id, self.mode != "off" and fault is None) if found else None

    def _fault(self, what: str, sums: bytes, key_id: str, signature: bytes) -> ArtifactError | None:
        trusted = ", ".join(key.key_id for key in self.keys)
        if not key_id:
            remedy = "sign it: `retort sign`, or pack it with --sign PRIVATE_KEY"
            return ArtifactError(f"{what} is not signed, and only {trusted} is trusted", remedy)
        own = [key for key in self.keys if key.key_id == key_id]
        if not own:
            remedy = f"if you trust its signer, add the public key {key_id} with --trust"
            return ArtifactError(f"{what} is signed with the key {key_id}, and only {trusted} is trusted", remedy)
        if not any(verify(key.content, sums, signature) for key in own):
            message = f"{what} was altered after it was signed: its signature with the key {key_id} is wrong"
            return ArtifactError(message, "do not use it; get it again from its signer")
        return None


def signature_line(key_id: str, signature: bytes) -> bytes:
    """The content of ``SHA256SUMS.sig``."""
    return f"ed25519 {key_id} {signature.hex()}\n".encode()
