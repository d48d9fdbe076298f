"""Files of PyTorch that hold weights, or code of a model that is compiled: what can be given in their place."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..errors import ModelError

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl", ".pickle")


def require_model_file(path: Path) -> None:
    """Reject a file from which no model can be made.

    Raises:
        ModelError: it is a TorchScript file, or holds weights or a pickled module; the remedy says what to give.
    """
    if not path.is_file():
        return
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name for name in names) and any(name.endswith("/constants.pkl") for name in names):
            raise ModelError(
                f"{path.name} is a TorchScript file, whose code is compiled and cannot be captured",
                "give the factory of its nn.Module, with the weights of the file "
                "(`net.load_state_dict(torch.jit.load(FILE).state_dict())`); or write it as ONNX with "
                "`torch.onnx.export(torch.jit.load(FILE), example, 'net.onnx', dynamo=False)` and give that file",
            )
    if path.suffix.lower() in _SUFFIXES:
        raise ModelError(
            f"{path.name} holds weights or a pickled module, and not the code of a model",
            "give the function that builds the nn.Module, and the file as its weights: "
            f"`retort capture my_net:build --weights {path.name}`",
        )
