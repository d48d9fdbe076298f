"""Triton's Python backend for a bundle, the ``model.py`` of the repository: it answers with the bundle's own engine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton


class TritonPythonModel:
    """A model as Triton's Python backend wants it; a bad request in a batch leaves the others alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Verify the bundle beside this file and open its model.

        Raises:
            RetortError: the bundle is damaged or cannot be served on this machine; Triton reports it and does not load.
        """
        folder = Path(args["model_repository"], args["model_version"], "bundle")
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        from retort_runtime import answer_arrays, open_bundle

        device = int(args["model_instance_device_id"]) if args.get("model_instance_kind") == "GPU" else 0
        self.engine = open_bundle(folder, device=device)
        self._answer = answer_arrays
        # Triton has no tensors without axes
        self._scalars = {spec.name for spec in self.engine.signature.inputs if spec.shape == ()}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order."""
        answers = self._answer(self.engine, [self._feeds(request) for request in requests])
        return [
            _response(answer, request.requested_output_names())
            for answer, request in zip(answers, requests, strict=True)
        ]

    def _feeds(self, request: Any) -> dict[str, Any]:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return {
            name: array.reshape(()) if name in self._scalars and array.size == 1 else array
            for name, array in arrays.items()
        }

    def finalize(self) -> None:
        """Free the model."""
        self.engine.close()


def _response(answer: Any, wanted: Sequence[str]) -> Any:
    if not isinstance(answer, Mapping):
        codes = {400: triton.TritonError.INVALID_ARG, 503: triton.TritonError.UNAVAILABLE}
        error = triton.TritonError(answer.text, codes.get(answer.status, triton.TritonError.INTERNAL))
        return triton.InferenceResponse(error=error)
    chosen = {name: array if array.ndim else array.reshape(1) for name, array in answer.items() if name in wanted}
    return triton.InferenceResponse(output_tensors=[triton.Tensor(name, array) for name, array in chosen.items()])
