"""A server of the SSH protocol without OpenSSH's own: ``python ssh_server.py PORT HOST_KEY AUTHORIZED_KEYS``.

Tests of the real ssh client use it where no sshd is installed. Every command is run by ``sh`` as this user.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import asyncssh


async def serve(port: int, host_key: str, authorized: str) -> None:
    """Listen on loopback until the process is killed."""
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        process_factory=_run,
        encoding=None,
    )
    await server.wait_closed()


async def _run(process: Any) -> None:
    """Run the command of a connection; what it started in a session of its own lives on when the link is cut."""
    child = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        process.command or "true",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=os.path.expanduser("~"),
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    code = await child.wait()
    await process.stdout.drain()
    process.exit(code)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
