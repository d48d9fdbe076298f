"""The ports of one TorchServe: which there are, and free ones on a loopback address."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from ...core.errors import MachineError


@dataclass(frozen=True)
class Ports:
    """The ports of one TorchServe; ``worker`` is the first port of the workers, one each.

    ``management`` is used only where TorchServe has no Unix sockets.
    """

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int
    worker: int


def pick_ports(host: str, port: int) -> Ports:
    """Free ports on a loopback address.

    Args:
        port: the requested inference port; 0 takes a free port.

    Raises:
        MachineError: the requested port is in use.
    """
    if ":" in host:
        raise MachineError(f"TorchServe cannot listen on {host}, because it does not support IPv6", "use 127.0.0.1")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for index, item in enumerate(sockets):
            _bind(item, host, port if index == 0 else 0)
        numbers = [int(item.getsockname()[1]) for item in sockets]
    # workers use consecutive ports; below the ephemeral range they are least likely to be in use
    inference, management, metrics, grpc, grpc_management, seed = numbers
    return Ports(inference, management, metrics, grpc, grpc_management, 10000 + seed % 20000)


def _bind(item: socket.socket, host: str, port: int) -> None:
    try:
        # without this a port cannot be used for a minute after its server has stopped
        item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind((host, port))
    except OSError as error:
        message = f"port {port} on {host} cannot be used: {error.strerror}"
        remedy = "stop the process that uses it, or choose another port with --port (0 takes a free port)"
        raise MachineError(message, remedy, port=port) from error
