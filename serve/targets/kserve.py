"""KServe: a runtime and an inference service for the image of our own, and the same for Triton."""

from __future__ import annotations

import re
from typing import Any

import yaml

from . import docker, triton
from .deployed import Commands, Deployed

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:25.07-py3"
_MODELS = "/mnt/models"
"""Where KServe puts what `storageUri` names."""
_OWN = "# The image is built from this folder; the bundle is taken from storageUri, which names a copy of bundle.\n"
_TRITON = (
    "# Take the newest image of Triton: versions before 25.07 have known faults of security.\n"
    "# storageUri names a copy of onnx-backend; python-backend needs an image with numpy and onnxruntime added.\n"
)


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return "bundle"


def write(made: Deployed) -> Commands:
    """Write the manifests, what the image is built from, and Triton's repositories.

    Returns:
        How to build the image and to apply the manifests.

    Raises:
        UserError: as :func:`retort.serve.targets.triton.write_onnx`.
    """
    build = docker.write(made)
    service, storage = service_name(made.settings.name), made.options.storage or f"pvc://models/{made.settings.name}"
    own = [
        _runtime(f"retort-{service}", "retort", _own_container(made)),
        _service(made, service, "retort", f"{storage}/bundle"),
    ]
    made.write("kserve-own.yaml", _OWN + yaml.safe_dump_all(own, sort_keys=False))
    commands = {**build, "with this image, on a cluster": "kubectl apply -f kserve-own.yaml"}
    if not triton.write_onnx(made):
        return commands
    other = [
        _runtime(f"triton-{service}", "triton", _triton_container(made)),
        _service(made, service, "triton", f"{storage}/{triton.ONNX}"),
    ]
    made.write("kserve-triton.yaml", _TRITON + yaml.safe_dump_all(other, sort_keys=False))
    return {**commands, "with Triton, on a cluster": "kubectl apply -f kserve-triton.yaml"}


def service_name(name: str) -> str:
    """The name of a model as Kubernetes allows it: lower case, digits and hyphens, not longer than a label."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model"


def _runtime(name: str, kind: str, container: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "supportedModelFormats": [{"name": kind, "version": "1", "autoSelect": False}],
        "protocolVersions": ["v2"],
        "multiModel": False,
        "containers": [container],
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": name},
        "spec": spec,
    }


def _service(made: Deployed, name: str, kind: str, storage: str) -> dict[str, Any]:
    model = {
        "modelFormat": {"name": kind, "version": "1"},
        "runtime": f"{kind}-{name}",
        "protocolVersion": "v2",
        "storageUri": storage,
    }
    predictor = {
        "minReplicas": 1,
        "terminationGracePeriodSeconds": made.options.response_timeout_s + 30,
        "model": model,
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": predictor},
    }


def _own_container(made: Deployed) -> dict[str, Any]:
    found = _container(made, docker.image_of(made), docker.serving_command(made))
    security = {"runAsNonRoot": True, "runAsUser": docker.USER, "readOnlyRootFilesystem": True}
    return {
        **found,
        "env": [{"name": "RETORT_BUNDLE", "value": _MODELS}],
        "securityContext": {**found["securityContext"], **security},
    }


def _triton_container(made: Deployed) -> dict[str, Any]:
    flags = [f"--model-repository={_MODELS}", f"--http-port={docker.PORT}", "--disable-auto-complete-config"]
    return _container(made, TRITON_IMAGE, ["tritonserver", *flags])


def _container(made: Deployed, image: str, command: list[str]) -> dict[str, Any]:
    cores = str(made.settings.workers * made.settings.threads)
    return {
        "name": "kserve-container",
        "image": image,
        "command": command,
        "ports": [{"containerPort": docker.PORT, "protocol": "TCP"}],
        "startupProbe": _probe("ready", period_s=2, failures=90),
        "readinessProbe": _probe("ready", period_s=10, failures=3),
        "livenessProbe": _probe("live", period_s=10, failures=6),
        # the endpoint is taken out of service before the server stops to listen
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
        "resources": {"requests": {"cpu": cores}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _probe(state: str, period_s: int, failures: int) -> dict[str, Any]:
    request = {"path": f"/v2/health/{state}", "port": docker.PORT}
    return {"httpGet": request, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}
