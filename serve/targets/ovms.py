"""OpenVINO Model Server: a repository with the model, and its configuration."""

from __future__ import annotations

import json
import shutil

from ...core.backends.openvino import EXACT
from ...core.session import backend_of
from ..settings import MODEL
from .deployed import Commands, Deployed

IMAGE = "openvino/model_server:2025.3"
REPOSITORY, VERSION, CONFIG = "models", 1, "config.json"
PORT = 8080


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return "bundle"


def write(made: Deployed) -> Commands:
    """Write the repository and the configuration.

    The server combines no requests: each is computed by itself, on one of as many streams as there are workers.

    Returns:
        How to start the server.
    """
    name = made.settings.name
    for file in (MODEL, *made.parts.external):
        target = made.folder / REPOSITORY / name / str(VERSION) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.bundle / file, target)
    made.write(CONFIG, json.dumps(_config(made), indent=1) + "\n")
    ports, hardened = f"--rest_port {PORT}", "--read-only --cap-drop ALL --security-opt no-new-privileges"
    mounted = f'-v "$PWD":/srv:ro -p 127.0.0.1:{PORT}:{PORT} {IMAGE}'
    return {
        "with an installed OpenVINO Model Server": f"ovms --config_path {CONFIG} {ports} --rest_bind_address 127.0.0.1",
        "with its image": f"docker run --rm {hardened} {mounted} --config_path /srv/{CONFIG} {ports}",
    }


def _config(made: Deployed) -> dict[str, object]:
    settings = made.settings
    plugin = {
        **EXACT,
        **(settings.provider_options if backend_of(settings.providers) == "openvino" else {}),
        "NUM_STREAMS": str(settings.workers),
        "INFERENCE_NUM_THREADS": str(settings.workers * settings.threads),
    }
    model = {
        "name": settings.name,
        "base_path": f"{REPOSITORY}/{settings.name}",
        "model_version_policy": {"specific": {"versions": [VERSION]}},
        "target_device": "CPU",
        "nireq": settings.workers,
        "plugin_config": plugin,
    }
    return {"model_config_list": [{"config": model}]}
