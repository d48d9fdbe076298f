"""An image of our own: a small Python with the bundle and an asyncio server, for Docker, Podman and Kubernetes."""

from __future__ import annotations

from pathlib import Path

from ..bundles.stage import needs_of
from .deployed import Commands, Deployed

PORT = 8080
SERVER = "uvicorn>=0.30"
USER = 10001
"""The user in the container, by number, so that Kubernetes can see that it is not root."""
APP = "docker_app.py"
_DOCKERFILE = """\
FROM python:3.12-slim

RUN useradd --uid {user} --no-create-home --shell /usr/sbin/nologin retort
WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py deployment.json ./
COPY bundle ./bundle

USER {user}
ENV PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE RETORT_METRICS=/dev/shm/retort
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \\
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/v2/health/ready', timeout=4)"]
STOPSIGNAL SIGTERM
CMD {command}
"""
_IGNORED = "**/__pycache__\nmanifest.json\n*.yaml\n"


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return "bundle"


def write(made: Deployed) -> Commands:
    """Write what an image is built from.

    Returns:
        How to build and run it.
    """
    image = image_of(made)
    command = ", ".join(f'"{word}"' for word in serving_command(made))
    values = {"user": USER, "threads": made.settings.threads, "port": PORT, "command": f"[{command}]"}
    made.write("Dockerfile", _DOCKERFILE.format(**values))
    made.write(".dockerignore", _IGNORED)
    made.write("app.py", Path(__file__).with_name(APP).read_bytes())
    made.write("requirements.txt", "".join(f"{need}\n" for need in (SERVER, *needs_of(made.settings))))
    hardened = "--read-only --cap-drop ALL --security-opt no-new-privileges"
    return {
        "to build the image": f"docker build -t {image} .",
        "to run it on this machine": f"docker run --rm {hardened} -p 127.0.0.1:{PORT}:{PORT} {image}",
    }


def serving_command(made: Deployed) -> list[str]:
    """The command of the container: one process per worker, and time for running requests when it is stopped."""
    return [
        *("python", "-m", "uvicorn", "app:app", "--host", "0.0.0.0", "--port", str(PORT)),
        *("--workers", str(made.settings.workers), "--no-access-log", "--no-server-header"),
        *("--timeout-graceful-shutdown", str(made.options.response_timeout_s)),
    ]


def image_of(made: Deployed) -> str:
    """The name of the image: as given, or that of the model with its version, in lower case as images have it."""
    return made.options.image or f"{made.settings.name.lower().strip('-_') or 'model'}:{made.settings.version}"
