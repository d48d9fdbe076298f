"""Models with a planted feature as ONNX files: pictures, sequences, signals, tables and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from retort.core.preprocessing.decode_sounds import soundfile
from retort.core.preprocessing.specs import ImageInput, SoundInput
from retort.core.session import open_session
from retort.core.signature import Signature

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(11)
PATTERN = np.sign(RANDOM.normal(size=(4, 4))).astype(np.float32)
SYMBOLS = tuple("abcdefghijklmnopqrstuvwxyz .")
TEXT = "the plot was thin but the end was great and i left."


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array],
    shape: list[int | str],
    kind: int = TensorProto.FLOAT,
    **texts: Any,
) -> Path:
    """A file of a model from ``x`` to ``scores`` of two classes, with texts in its signature."""
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", *shape])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "planted", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    session = open_session(path)
    signed: Signature = replace(session.signature, **texts)
    session.close()
    helper.set_model_props(model, {"retort.signature": signed.to_json()})
    onnx.save(model, path)
    return path


def head(hidden: str, width: int, bias: float) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes and weights from a hidden vector to two scores, of which the second is the sum of the vector."""
    weights = {
        "w": np.stack([np.zeros(width), np.ones(width)]).astype(np.float32).T,
        "b": np.array([0, bias], np.float32),
    }
    return [helper.make_node("Gemm", [hidden, "w", "b"], ["scores"])], weights


def picture_model(path: Path) -> Path:
    """Finds the pattern anywhere in a picture of 16 by 16 pixels."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalMaxPool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
    ]
    last, weights = head("f", 1, -10)
    weights["k"] = PATTERN[None, None]
    return saved(path, nodes + last, weights, [1, 16, 16], classes=("noise", "pattern"))


def pictures(rows: int) -> Array:
    """Noise with the pattern at row 8 and column 4."""
    made = RANDOM.normal(size=(rows, 1, 16, 16)).astype(np.float32) * 0.2
    made[:, 0, 8:12, 4:8] = PATTERN
    return made


def sequence_model(path: Path) -> Path:
    """Waits for a large value of feature 2 in a sequence of 30 steps of 5 features."""
    nodes = [
        helper.make_node("Gather", ["x", "two"], ["g"], axis=2),
        helper.make_node("Sub", ["g", "threshold"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Flatten", ["m"], ["f"]),
    ]
    last, weights = head("f", 1, -1.5)
    weights |= {"two": np.array([2]), "threshold": np.array(1.5, np.float32)}
    return saved(path, nodes + last, weights, [30, 5])


def sequences(rows: int) -> Array:
    """Noise with the large value at step 21."""
    made = RANDOM.normal(size=(rows, 30, 5)).astype(np.float32) * 0.3
    made[:, 21, 2] = 5
    return made


def signal_model(path: Path, **texts: Any) -> Path:
    """Hears a tone in a signal of 2,000 samples."""
    wave = np.sin(np.arange(40) * 0.8).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalMaxPool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
    ]
    last, weights = head("f", 1, -8)
    weights["k"] = wave[None, None]
    return saved(path, nodes + last, weights, [1, 2000], **texts)


def signals(rows: int) -> Array:
    """Noise with the tone from 1,200 to 1,240."""
    made = RANDOM.normal(size=(rows, 1, 2000)).astype(np.float32) * 0.05
    made[:, 0, 1200:1240] += np.sin(np.arange(40) * 0.8)
    return made


def table_model(path: Path) -> Path:
    """Adds up the features `dose` and `age` of a table."""
    names = ("age", "dose", "height", "weight")
    last, weights = head("x", 4, -2)
    weights["w"][:, 1] = [1, 3, 0, 0]
    return saved(path, last, weights, [4], features=names)


def text_model(path: Path) -> Path:
    """Knows the letters of one word in a text of 60 characters, wherever the word stands."""
    table = np.zeros((len(SYMBOLS) + 2, len(SYMBOLS) + 2), np.float32)
    np.fill_diagonal(table, 1)
    word = [SYMBOLS.index(letter) + 2 for letter in "great"]
    kernel = np.zeros((1, len(SYMBOLS) + 2, len(word)), np.float32)
    kernel[0, word, range(len(word))] = 2.5
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "k"], ["c"]),
        helper.make_node("GlobalMaxPool", ["c"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
    ]
    last, weights = head("f", 1, -9)
    weights |= {"k": kernel, "table": table}
    texts = {"classes": ("dull", "praise"), "symbols": SYMBOLS}
    return saved(path, nodes + last, weights, [60], TensorProto.INT64, **texts)


def texts() -> Array:
    """The text with the word, in numbers."""
    numbers = [SYMBOLS.index(letter) + 2 for letter in TEXT]
    return np.array([numbers + [0] * (60 - len(numbers))])


COLOURS = ImageInput("x", (32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
"""How a photo becomes the input of :func:`colour_model`."""


def colour_model(path: Path) -> Path:
    """Finds a red spot in a photo, which it takes with 32 by 32 pixels of usual mean and deviation."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("AveragePool", ["c"], ["p"], kernel_shape=[4, 4], strides=[2, 2]),
        helper.make_node("GlobalMaxPool", ["p"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
    ]
    last, weights = head("f", 1, -4)
    weights["k"] = np.array([2, -1.5, -1.5], np.float32).reshape(1, 3, 1, 1)
    texts: dict[str, Any] = {"classes": ("grey", "red"), "preprocessing": (COLOURS,)}
    return saved(path, nodes + last, weights, [3, 32, 32], **texts)


def photo(path: Path) -> Path:
    """A grey photo of 640 by 480 pixels with a red spot in the lower half on the left."""
    across = np.linspace(60, 190, 640)[None, :, None]
    pixels = np.broadcast_to(across, (480, 640, 3)).astype(np.uint8).copy()
    pixels[300:400, 100:220] = (230, 30, 40)
    Image.fromarray(pixels).save(path)
    return path


def sound_model(path: Path) -> Path:
    """:func:`signal_model` for recordings of 8 kHz."""
    sound = SoundInput("x", 8000, seconds=0.25, channel_axis=True)
    return signal_model(path, preprocessing=(sound,))


def recording(path: Path) -> Path:
    """The signal of :func:`signals` as a recording."""
    soundfile().write(path, signals(1)[0, 0], 8000, subtype="FLOAT")
    return path


WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "plot", "was", "thin", "but", "end"),
    *("gre", "##at", "and", "i", "left", ".", ","),
)


def tokenizer(path: Path) -> Path:
    """The file of a tokenizer of word pieces."""
    import tokenizers

    made = tokenizers.BertWordPieceTokenizer({word: number for number, word in enumerate(WORDS)})
    made.save(str(path))
    return path


def token_model(path: Path) -> Path:
    """Knows the pieces of the word `great` of :func:`tokenizer`."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axis"], ["f"], keepdims=0),
    ]
    last, weights = head("f", 1, -3)
    table = np.zeros((len(WORDS), 1), np.float32)
    table[[WORDS.index("gre"), WORDS.index("##at")]] = 3
    weights |= {"table": table, "axis": np.array([1], np.int64)}
    return saved(path, nodes + last, weights, ["length"], TensorProto.INT64, classes=("dull", "praise"))
