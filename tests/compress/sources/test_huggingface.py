"""Directories of ``save_pretrained``: captured with their task, their names and their dynamic axes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program
from retort.compress.sources.huggingface import example_of, load_pretrained
from retort.core.errors import ArtifactError, MachineError, ModelError, UserError
from retort.core.session import SessionOptions, open_session
from retort.core.system.installation import install_command

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT classifier on disk."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=99, max_position_embeddings=64, **{**SMALL, "num_labels": 3})
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def retort(*arguments: str) -> int:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_a_directory_becomes_a_program_and_a_graph_of_any_length(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Captured without data and exported, the model gives its logits at other batch sizes and lengths."""
    task = ("--task", "text-classification")
    assert retort("capture", "--hf", str(bert), *task, "--out", str(tmp_path / "p"), "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kind"] == "program"
    program = load_program(tmp_path / "p" / "model.pt2")
    assert [spec.describe() for spec in program.signature.inputs] == [
        "input_ids: int64[batch, sequence]", "attention_mask: int64[batch, sequence]",
    ]  # fmt: skip
    assert [spec.name for spec in program.signature.outputs] == ["logits"]
    model: torch.nn.Module = transformers.BertForSequenceClassification.from_pretrained(bert)
    model.eval()
    session = open_session(tmp_path / "p" / "model.pt2", SessionOptions())
    tokens = np.random.default_rng(0).integers(0, 99, (3, 11))
    found = session.run({"input_ids": tokens, "attention_mask": np.ones_like(tokens)})["logits"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(torch.from_numpy(tokens)).logits)


def test_a_log_has_no_loading_bars(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, neither Retort's loading nor a later one of the same process is changed in anything else."""
    bars: Any = transformers.utils.logging
    bars.enable_progress_bar()
    load_pretrained(bert)
    assert "%|" not in capfd.readouterr().err
    assert bars.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("given", "shown"),
    [({}, False), pytest.param({"HF_HUB_DISABLE_PROGRESS_BARS": "0"}, True, marks=pytest.mark.slow)],
    ids=["default", "wanted"],
)
def test_a_factory_that_loads_a_model_draws_no_bars_in_a_log(
    bert: Path, tmp_path: Path, given: dict[str, str], shown: bool
) -> None:
    """The command line turns the bars off before the user's code is imported, unless the user has set it."""
    lines = ["import torch, transformers", "def build():", "    kind = transformers.BertForSequenceClassification"]
    lines += [f"    kind.from_pretrained({str(bert)!r})", "    return torch.nn.Linear(5, 2)", ""]
    (tmp_path / "own_bert.py").write_text("\n".join(lines))
    np.savez(tmp_path / "rows.npz", x=np.ones((20, 5), np.float32))
    command = [sys.executable, "-m", "retort", "capture", "own_bert:build", "--data", "rows.npz"]
    clean = {name: value for name, value in os.environ.items() if "PROGRESS_BARS" not in name}
    done = subprocess.run(
        command, cwd=tmp_path, env={**clean, **given}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("%|" in done.stderr) is shown


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, **SMALL),
        transformers.ViTConfig(image_size=32, patch_size=8, **SMALL),
    ],
    ids=["llama", "vit"],
)
def test_the_saved_class_is_the_default(config: transformers.PretrainedConfig, tmp_path: Path) -> None:
    """Without a task, the saved class is captured, for a decoder without cache and for an image model."""
    torch.manual_seed(0)
    kinds = {"llama": transformers.LlamaForCausalLM, "vit": transformers.ViTForImageClassification}
    kinds[config.model_type](config).save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    assert [spec.name for spec in capture(model, example_of(model)).signature.outputs] == ["logits"]


def test_what_cannot_be_captured_is_said(bert: Path, tmp_path: Path) -> None:
    """A misspelt task, a task without weights, a bad directory, and an encoder-decoder have different errors."""
    with pytest.raises(UserError, match="text-classification"):
        load_pretrained(bert, "text-clasification")
    with pytest.raises(ModelError, match="qa_outputs"):
        load_pretrained(bert, "question-answering")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((bert / "config.json").read_bytes())
    with pytest.raises(ArtifactError, match="safetensors"):
        load_pretrained(pickled)
    (pickled / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_pretrained(pickled)
    t5 = transformers.T5Config(vocab_size=50, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    transformers.T5Model(t5).save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="encoder and a decoder"):
        load_pretrained(tmp_path / "t5")


def test_the_command_wants_one_model(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MODEL and --hf exclude each other, a directory needs config.json, and a factory needs data."""
    assert retort("capture", "net:build", "--hf", str(bert)) == 2
    assert "not both" in capsys.readouterr().err
    assert retort("capture", "--hf", str(tmp_path)) != 0
    assert "config.json" in capsys.readouterr().err
    assert retort("capture", "torch.nn:Identity") == 2
    assert "--data is required" in capsys.readouterr().err


def test_a_missing_library_is_named_with_its_extra(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers, `--hf` says which extra of Retort installs it."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MachineError, match="transformers") as caught:
        load_pretrained(bert)
    assert caught.value.remedy == install_command("hf")
