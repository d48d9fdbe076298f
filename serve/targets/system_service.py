"""A systemd unit that keeps a server of Retort running, as a user of its own that can write only its own folders."""

from __future__ import annotations

from collections.abc import Sequence

UNIT = "retort.service"


def unit(python: str, archives: Sequence[str], ports: tuple[int, int], url: str, keys: Sequence[str] = ()) -> str:
    """The text of the unit.

    Args:
        python: absolute path of the interpreter that has Retort.
        archives: absolute paths of the archives.
        ports: those of TorchServe and of the metrics on 127.0.0.1.
        url: address under which the proxy publishes it.
        keys: absolute paths of the public keys to trust; none takes archives that nobody signed.
    """
    words = [python, "-P", "-m", "retort", "serve", *archives]
    port, metrics_port = ports
    options = ["--port", str(port), "--metrics-port", str(metrics_port), "--url", url, "--logs", "/var/log/retort"]
    options += [word for key in keys for word in ("--trust", key)]
    return _UNIT.format(command=" ".join(_quoted(word) for word in [*words, *options]))


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


_UNIT = """# Written by `retort deploy`: copy it to /etc/systemd/system/, then `systemctl enable --now retort`.
[Unit]
Description=Models served by Retort
After=network.target

[Service]
ExecStart={command}
Environment=RETORT_CACHE=/var/lib/retort
DynamicUser=yes
User=retort
StateDirectory=retort
LogsDirectory=retort
WorkingDirectory=/var/lib/retort
UMask=0077
Restart=always
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec=30
KillMode=mixed
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
CapabilityBoundingSet=

[Install]
WantedBy=multi-user.target
"""
