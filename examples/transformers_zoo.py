"""Small models of architectures that others wrote: `transformers` configurations with random, lively weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Kind = tuple[str, str, str, dict[str, Any]]

_BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_WORDS = {**_BODY, "vocab_size": 100, "max_position_embeddings": 32}
_DECODER = {**_WORDS, "use_cache": False}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_PATCHES = {**_BODY, "image_size": 32, "patch_size": 8}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
_PYRAMID = {**_STAGES, "image_size": 64, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4]}
_WINDOWS = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_DISENTANGLED = {**_WORDS, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_SPEECH = {
    **_BODY,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_MEL = {"num_mel_bins": 16, "max_source_positions": 20}
_CODER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}


def _image(family: str, inputs: str, **given: Any) -> Kind:
    return f"{family}ForImageClassification", f"{family}Config", inputs, given


def _text(family: str, **given: Any) -> Kind:
    return f"{family}ForSequenceClassification", f"{family}Config", "text", given


def _causal(family: str, **given: Any) -> Kind:
    return f"{family}ForCausalLM", f"{family}Config", "text", given


ARCHITECTURES: dict[str, Kind] = {
    "resnet": _image("ResNet", "image", **_STAGES, embedding_size=16),
    "resnet_basic": _image("ResNet", "image", **_STAGES, embedding_size=16, layer_type="basic"),
    "regnet": _image("RegNet", "image", **_STAGES, embedding_size=16, groups_width=8),
    "mobilenet_v1": _image("MobileNetV1", "photo", depth_multiplier=0.25, image_size=64),
    "mobilenet_v2": _image("MobileNetV2", "photo", depth_multiplier=0.35, image_size=64),
    "efficientnet": _image(
        "EfficientNet", "photo", image_size=64, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320
    ),
    "convnext": _image("ConvNext", "image", **_STAGES),
    "convnext_v2": _image("ConvNextV2", "image", **_STAGES),
    "bit": _image(
        "Bit", "photo", embedding_size=32, hidden_sizes=[128, 128, 128, 256], depths=[1, 1, 2, 1], num_groups=8
    ),
    "poolformer": _image("PoolFormer", "photo", **_STAGES),
    "focalnet": _image("FocalNet", "photo", image_size=64, embed_dim=16, depths=[1, 1, 2, 1]),
    "swiftformer": _image(
        "SwiftFormer", "photo", image_size=64, embed_dims=[16, 24, 32, 48], depths=[1, 1, 2, 1], drop_path_rate=0.0
    ),
    "vit": _image("ViT", "image", **_PATCHES),
    "deit": _image("DeiT", "image", **_PATCHES),
    "beit": _image("Beit", "image", **_PATCHES, use_relative_position_bias=True),
    "dinov2": _image("Dinov2", "image", **_PATCHES),
    "swin": _image("Swin", "photo", **_WINDOWS),
    "swin_v2": _image("Swinv2", "photo", **_WINDOWS),
    "pvt": _image("Pvt", "photo", **_PYRAMID),
    "pvt_v2": _image("PvtV2", "photo", **_PYRAMID),
    "cvt": _image(
        "Cvt",
        "photo",
        embed_dim=[16, 32, 48],
        num_heads=[1, 2, 4],
        depth=[1, 2, 4],
        drop_path_rate=[0.0, 0.0, 0.0],
        attention_drop_rate=[0.0, 0.0, 0.0],
    ),
    "levit": _image(
        "Levit",
        "photo",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        drop_path_rate=0,
    ),
    "mobilevit": _image(
        "MobileViT",
        "photo",
        image_size=64,
        hidden_sizes=[32, 40, 48],
        neck_hidden_sizes=[8, 12, 16, 24, 32, 40, 80],
    ),
    "mobilevit_v2": _image("MobileViTV2", "photo", image_size=64, width_multiplier=0.5),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "photo",
        {**_PYRAMID, "decoder_hidden_size": 32},
    ),
    "upernet": ("UperNetForSemanticSegmentation", "UperNetConfig", "photo", {"hidden_size": 32}),
    "yolos": (
        "YolosForObjectDetection",
        "YolosConfig",
        "image",
        {**_PATCHES, "image_size": [32, 32], "num_detection_tokens": 5},
    ),
    "detr": ("models.detr.modeling_detr.DetrEncoder", "DetrConfig", "embeds", _CODER),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image", {**_PATCHES, "projection_dim": 16}),
    "clip_text": (
        "CLIPTextModelWithProjection",
        "CLIPTextConfig",
        "text",
        {**_WORDS, "projection_dim": 16, "eos_token_id": 2},
    ),
    "bert": _text("Bert", **_WORDS),
    "distilbert": _text(
        "DistilBert", vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=32
    ),
    "roberta": _text("Roberta", **_WORDS),
    "albert": _text("Albert", **_WORDS, embedding_size=16),
    "electra": _text("Electra", **_WORDS, embedding_size=16),
    "minilm": ("BertModel", "BertConfig", "text", {**_WORDS, "num_hidden_layers": 3}),
    "mpnet": _text("MPNet", **_WORDS),
    "deberta": _text("Deberta", **_DISENTANGLED),
    "deberta_v2": _text("DebertaV2", **_DISENTANGLED),
    "fnet": _text(
        "FNet",
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=32,
    ),
    "nystromformer": (
        "models.nystromformer.modeling_nystromformer.NystromformerEncoder",
        "NystromformerConfig",
        "states",
        {**_WORDS, "num_landmarks": 4, "segment_means_seq_len": 12},
    ),
    "xlnet": _text("XLNet", vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=64),
    "t5_encoder": (
        "T5EncoderModel",
        "T5Config",
        "text",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "gpt2": _text(
        "GPT2", vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False, pad_token_id=0
    ),
    "opt": _causal("OPT", **_DECODER, ffn_dim=64, word_embed_proj_dim=32),
    "llama": _causal("Llama", **_GROUPED),
    "qwen2": _causal("Qwen2", **_GROUPED),
    "qwen3": _causal("Qwen3", **_GROUPED, head_dim=8),
    "mistral": _causal("Mistral", **_GROUPED),
    "gemma": _causal("Gemma", **_DECODER, num_key_value_heads=1, head_dim=8),
    "whisper_encoder": (
        "models.whisper.modeling_whisper.WhisperEncoder",
        "WhisperConfig",
        "mel",
        {**_CODER, **_MEL},
    ),
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2Config", "wave", _SPEECH),
    "hubert": ("HubertModel", "HubertConfig", "wave", _SPEECH),
    "ast": (
        "ASTForAudioClassification",
        "ASTConfig",
        "spectrogram",
        {**_BODY, "patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
    ),
}
"""Name → class, configuration class, what it takes, and what makes it small."""

_INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image": ("pixel_values", (3, 32, 32)),
    "photo": ("pixel_values", (3, 64, 64)),
    "text": ("input_ids", (12,)),
    "states": ("hidden_states", (12, 32)),
    "embeds": ("inputs_embeds", (9, 32)),
    "mel": ("input_features", (16, 40)),
    "wave": ("input_values", (800,)),
    "spectrogram": ("input_values", (32, 16)),
}


def names() -> list[str]:
    """What there is to build."""
    return list(ARCHITECTURES)


def build(name: str) -> nn.Module:
    """A small model of the architecture ``name``, in evaluation form."""
    import transformers

    path, config, _, given = ARCHITECTURES[name]
    made: Any = transformers
    for part in path.split("."):
        made = getattr(made, part)
    if name == "upernet":
        stages: dict[str, Any] = {"out_features": [f"stage{index}" for index in range(1, 5)]}
        backbone = transformers.ConvNextConfig(**_STAGES, **stages)
        given = {**given, "backbone_config": backbone, "use_auxiliary_head": False}
    model: nn.Module = made(getattr(transformers, config)(**given))
    return enliven(model, samples(name)["train"])


def samples(name: str, count: int = 4) -> dict[str, dict[str, NDArray[Any]]]:
    """``count`` random inputs for the architecture ``name``, for every split alike."""
    key, shape = _INPUTS[ARCHITECTURES[name][2]]
    draw = np.random.default_rng(0)
    if key == "input_ids":
        values: NDArray[Any] = draw.integers(5, 90, (count, *shape))
    else:
        values = draw.standard_normal((count, *shape)).astype(np.float32)
    given = {key: values}
    return {"train": given, "validation": given, "calibration": given, "test": given}


def enliven(model: nn.Module, feeds: Mapping[str, Any]) -> nn.Module:
    """Weights as training leaves them: no parameter is zero, no norm is the identity, no signal dies out or explodes.

    Every convolution and linear layer is scaled so that its output on ``feeds`` has unit variance.
    """
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            drawn = torch.randn(value.shape, generator=noise)
            if name.endswith("running_var"):
                value.copy_(1 + 0.3 * drawn.clamp(-2, 2))
            elif name.endswith("running_mean"):
                value.copy_(0.1 * drawn)
            elif isinstance(value, nn.Parameter):
                constant = value.numel() > 0 and bool((value == value.flatten()[0]).all())
                value.add_(drawn, alpha=0.2 if constant else 0.02)
        heavy = [item for item in model.modules() if isinstance(item, nn.Linear | nn.modules.conv._ConvNd)]
        hooks = [item.register_forward_hook(_to_unit_variance) for item in heavy]
        model.eval()(**{key: torch.as_tensor(value) for key, value in feeds.items()})
        for hook in hooks:
            hook.remove()
    return model


def _to_unit_variance(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    spread = float(output.std().clamp(min=1e-6))
    for value in (layer.weight, layer.bias):
        if value is not None:
            value.div_(spread)
    return output / spread


def full_size(name: str, layers: int = 12) -> nn.Module:
    """A ResNet-50, a ResNet-18, a BERT-base, or a narrow BERT of any depth, with random weights."""
    import transformers

    shape: dict[str, Any] = {} if name == "bert_base" else {**_WORDS, "num_hidden_layers": layers}
    basic = {"depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
    model: Any = (
        transformers.ResNetForImageClassification(
            transformers.ResNetConfig(**(basic if name == "resnet18" else {}))  # type: ignore[arg-type]
        )
        if name.startswith("resnet")
        else transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
    )
    made: nn.Module = model.eval()
    return made


def full_samples(name: str, layers: int = 12) -> dict[str, dict[str, NDArray[Any]]]:
    """Two inputs for :func:`full_size`, for every split alike."""
    draw = np.random.default_rng(0)
    given: dict[str, NDArray[Any]] = {"input_ids": draw.integers(5, 90, (2, 12 if name == "bert_deep" else 128))}
    if name.startswith("resnet"):
        given = {"pixel_values": draw.standard_normal((2, 3, 224, 224)).astype(np.float32)}
    return {"train": given, "validation": given, "calibration": given, "test": given}
