"""Ray Serve: an application that answers with the bundle's own code, and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..bundles.stage import needs_of
from .deployed import Commands, Deployed

RAY = "ray[serve]>=2.40"
_WAITING = 1000
"""Requests that Ray hands to a replica at once: more than wait there, so that the bundle's engine, which knows how long
its batches take, is the one that refuses."""


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return "bundle"


def write(made: Deployed) -> Commands:
    """Write the application, its configuration and what it needs.

    Returns:
        How to start it.
    """
    made.write("serve_app.py", Path(__file__).with_name("ray_app.py").read_bytes())
    made.write("serve_config.yaml", yaml.safe_dump(_config(made), sort_keys=False))
    made.write("requirements.txt", "".join(f"{need}\n" for need in (RAY, *needs_of(made.settings))))
    return {"with Ray on this machine": "serve run serve_config.yaml"}


def _config(made: Deployed) -> dict[str, Any]:
    deployment = {
        "name": "Model",
        "num_replicas": made.settings.workers,
        "max_ongoing_requests": _WAITING,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_wait_loop_s": 2,
        "graceful_shutdown_timeout_s": made.options.response_timeout_s,
        "ray_actor_options": {"num_cpus": made.settings.threads},
    }
    application = {
        "name": made.settings.name,
        "route_prefix": "/",
        "import_path": "serve_app:app",
        "deployments": [deployment],
    }
    return {"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": [application]}
