"""The ports of one TorchServe: which there are, and free ones on a loopback address."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from ...core.errors import MachineError

_OPTIONS = ("--port", "--metrics-port", *["--port"] * 5)


@dataclass(frozen=True)
class Ports:
    """The ports of one TorchServe; ``worker`` is the first port of the workers, one each.

    ``management`` and ``front_metrics``, where TorchServe has its own metrics, are used only where it has no Unix
    sockets.
    """

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int
    worker: int
    front_metrics: int


def pick_ports(host: str, port: int, metrics_port: int = 0) -> Ports:
    """Free ports on a loopback address.

    Args:
        port: the requested inference port; 0 takes a free port.
        metrics_port: the requested port for Prometheus; 0 takes a free port.

    Raises:
        MachineError: a requested port is in use.
    """
    if ":" in host:
        raise MachineError(f"TorchServe cannot listen on {host}, because it does not support IPv6", "use 127.0.0.1")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(7)]
        for item, wanted, option in zip(sockets, (port, metrics_port, *[0] * 5), _OPTIONS, strict=True):
            _bind(item, host, wanted, option)
        numbers = [int(item.getsockname()[1]) for item in sockets]
    # workers use consecutive ports; below the ephemeral range they are least likely to be in use
    inference, metrics, management, grpc, grpc_management, seed, front_metrics = numbers
    return Ports(inference, management, metrics, grpc, grpc_management, 10000 + seed % 20000, front_metrics)


def _bind(item: socket.socket, host: str, port: int, option: str) -> None:
    try:
        # without this a port cannot be used for a minute after its server has stopped
        item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind((host, port))
    except OSError as error:
        message = f"port {port} on {host} cannot be used: {error.strerror}"
        remedy = f"stop the process that uses it, or choose another port with {option} (0 takes a free port)"
        raise MachineError(message, remedy, port=port) from error
