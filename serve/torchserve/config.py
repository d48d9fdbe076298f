"""Configuration of TorchServe: only loopback, no remote models, short logs, and no setting left to its default."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from ...core.options.serving_options import PackOptions
from ...core.system.java import Java
from ..settings import Settings
from .ports import Ports

_MIN_STARTUP_S = 60
_ENGINE_STARTUP_S = 1200
"""Where the provider of TensorRT may have to build its engine in the worker, in seconds."""
_UNTRIED_S = 60
"""Time to load a plan that could not be tried when it was packed, in seconds: TensorRT reads it, and builds nothing."""
_MOST_GPUS = 64
# TorchServe always starts its gRPC servers. On Linux a listening TCP socket may have a multicast address, but nothing
# can connect to one (ENETUNREACH); 224.0.0.0 is the one that is never assigned (RFC 1112).
_UNREACHABLE = "224.0.0.0"
_RESPONSE_BYTES = 1 << 26


def model_config(settings: Settings, options: PackOptions, load_s: float | None) -> bytes:
    """``model-config.yaml``: TorchServe ignores unknown keys without a warning, so these are exactly those it reads.

    Args:
        load_s: measured seconds to load; the timeout doubles in steps, so that equal inputs give equal archives. None
            for a plan that could not be tried.
    """
    startup = _ENGINE_STARTUP_S if settings.ranges else _MIN_STARTUP_S
    while startup < 4 * (_UNTRIED_S if load_s is None else load_s):
        startup *= 2
    values = {
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": options.max_batch_delay_ms,  # 0 would mean "unset", which is 100 ms
        "responseTimeout": options.response_timeout_s,
        "startupTimeout": startup,
        "deviceType": device_type(settings),
    }
    return "".join(f"{key}: {value}\n" for key, value in values.items()).encode()


def device_type(settings: Settings) -> str:
    """The value of ``deviceType`` in ``model-config.yaml``; with ``gpu``, each worker gets the number of a GPU."""
    return '"gpu"' if settings.needs_gpu else '"cpu"'


def unix_sockets() -> bool:
    """Whether TorchServe's jar has the native library for Unix sockets on this machine (netty 4.1.53)."""
    found = {"linux": ("x86_64", "aarch64"), "darwin": ("x86_64",)}
    return platform.machine() in found.get(sys.platform, ())


def hides_grpc() -> bool:
    """Whether gRPC can listen on an address to which nothing can connect, as TorchServe always starts it."""
    return sys.platform == "linux"


def exposure() -> str | None:
    """Who can reach what stops the model, in one sentence; None if this user alone can."""
    ways = [] if unix_sockets() else ["its management interface is a port, as it has no Unix sockets here"]
    ways += [] if hides_grpc() else ["its gRPC interfaces cannot be turned off"]
    if not ways:
        return None
    return f"every user of this machine can stop the model through TorchServe, as {' and '.join(ways)}"


@dataclass(frozen=True)
class FrontEnd:
    """How TorchServe's front end takes requests.

    Attributes:
        threads: number of threads for HTTP.
        management: address of the management interface, ``unix:PATH`` or a URL.
        metrics: address of TorchServe's own metrics, in the same form.
        swaps: whether models may be registered and removed, through the management interface.
        grpc: whether clients may use gRPC for predictions; the management interface never has it on Linux.
    """

    threads: int
    management: str
    metrics: str
    grpc: bool = False
    swaps: bool = False


def config_properties(models: Mapping[str, Settings], ports: Ports, host: str, store: Path, front: FrontEnd) -> bytes:
    """``config.properties`` of a server.

    Args:
        models: the settings of each model, by its file in ``store``; the first version of a name is its default.
    """
    largest = max(settings.limits.request_bytes for settings in models.values())
    silent = _UNREACHABLE if hides_grpc() else host
    values: dict[str, object] = {
        "inference_address": f"http://{host}:{ports.inference}",
        "management_address": front.management,
        "metrics_address": front.metrics,
        "grpc_inference_address": host if front.grpc else silent,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_address": silent,
        "grpc_management_port": ports.grpc_management,
        "initial_worker_port": ports.worker,
        "model_store": store,
        "load_models": ",".join(f"{settings.name}={file}" for file, settings in models.items()),
        "allowed_urls": "(?!)",
        "disable_token_authorization": "true",
        "enable_model_api": "true" if front.swaps else "false",
        "install_py_dep_per_model": "false",
        "enable_envvars_config": "false",
        "decode_input_request": "false",
        "max_request_size": largest,
        "max_response_size": max(_RESPONSE_BYTES, largest),
        "job_queue_size": 1,  # each model has its own
        "number_of_netty_threads": front.threads,
        "netty_client_threads": front.threads,
        "default_workers_per_model": 1,
        # at most; TorchServe takes those that it finds, gives each worker one of them, and none to models for the CPU
        "number_of_gpu": _MOST_GPUS if any(settings.needs_gpu for settings in models.values()) else 0,
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "model_metrics_auto_detect": "false",
    }
    return format_properties(values)


def format_properties(values: Mapping[str, object]) -> bytes:
    """Java properties: ASCII, with everything escaped that has a meaning there."""
    return "".join(f"{key}={_escaped(str(value))}\n" for key, value in values.items()).encode("ascii")


def _escaped(text: str) -> str:
    units = text.replace("\\", "\\\\").encode("utf-16-be")
    characters = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(unit) if 32 <= unit < 127 else f"\\u{unit:04x}" for unit in characters)


def log4j_config(logs: Path) -> bytes:
    """``log4j2.xml``: warnings of the server and all lines of the workers but the per-request ones (serve.md 2.6)."""
    return _LOG4J.format(
        server=_attribute(logs / "server.log"),
        server_old=_attribute(logs / "server.%i.log"),
        worker=_attribute(logs / "worker.log"),
        worker_old=_attribute(logs / "worker.%i.log"),
    ).encode()


def _attribute(path: Path) -> str:
    return quoteattr(str(path).replace("$", "$$"))


_LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <RollingFile name="server" fileName={server} filePattern={server_old}>
      <PatternLayout pattern="%d{{ISO8601}} [%-5p] %t %c{{1}} - %m%n"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
    <RollingFile name="worker" fileName={worker} filePattern={worker_old}>
      <PatternLayout pattern="%d{{ISO8601}} %t - %m%n"/>
      <RegexFilter regex="Backend received inference at: .*|\\[METRICS\\].*" onMatch="DENY" onMismatch="ACCEPT"/>
      <SizeBasedTriggeringPolicy size="10 MB"/>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="io.netty.bootstrap" level="error"/>
    <Logger name="ACCESS_LOG" level="off" additivity="false"/>
    <Logger name="MODEL_METRICS" level="off" additivity="false"/>
    <Logger name="TS_METRICS" level="off" additivity="false"/>
    <Logger name="MODEL_LOG" level="info" additivity="false">
      <AppenderRef ref="worker"/>
    </Logger>
    <Root level="warn">
      <AppenderRef ref="server"/>
    </Root>
  </Loggers>
</Configuration>
"""


def java_flags(java: Java, heap_bytes: int) -> list[str]:
    """Options of the Java virtual machine: a small heap, one garbage-collector thread, no deprecation warnings.

    The optimising compiler is off: in the first ten thousand requests it uses more CPU time than it saves (measured on
    two cores: 1.1 to 2.0 ms of Java per request with it, 0.4 to 0.7 ms without).
    """
    flags = ["-Xms64m", f"-Xmx{max(256, heap_bytes >> 20)}m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
    flags.append("-XX:TieredStopAtLevel=1")
    if java.version >= 24:
        flags += ["--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    return flags
