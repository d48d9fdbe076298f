"""The key of what a script makes: equal inputs, options, data and code give the same, as on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import stages
from ..core.artifact import Artifact, stable_hash
from ..core.context import Context
from ..core.options import Options


def key_for(
    stage: str, options: Options, parents: Sequence[Artifact], context: Context, identity: Sequence[Any] = ()
) -> str:
    """Hash of everything that determines the artifact of a stage."""
    fingerprint = context.data.fingerprint() if context.data is not None else ""
    keys = [parent.key for parent in parents]
    described = [stage, options.model_dump(mode="json"), keys, fingerprint, context.seed, list(identity)]
    return stable_hash([*described, stages.code_version(stage)])
