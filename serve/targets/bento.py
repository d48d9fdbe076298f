"""BentoML: a service that answers with the bundle's own code, and the file from which a Bento is built."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..bundles.stage import needs_of
from .deployed import Commands, Deployed

BENTOML = "bentoml>=1.4"


def bundle_folder(name: str) -> str:
    """Where the bundle is in the deployment."""
    return "bundle"


def write(made: Deployed) -> Commands:
    """Write the service, the description of the Bento and what it needs.

    Returns:
        How to start and to build it.
    """
    needs = [BENTOML, *needs_of(made.settings)]
    described = {
        "service": "service:Service",
        "include": ["service.py", "deployment.json", "bundle/**"],
        "python": {"packages": needs},
    }
    made.write("service.py", Path(__file__).with_name("bento_service.py").read_bytes())
    made.write("bentofile.yaml", yaml.safe_dump(described, sort_keys=False))
    made.write("requirements.txt", "".join(f"{need}\n" for need in needs))
    return {
        "with BentoML on this machine": "bentoml serve service:Service --host 127.0.0.1 --port 8080",
        "to build a Bento": "bentoml build",
    }
