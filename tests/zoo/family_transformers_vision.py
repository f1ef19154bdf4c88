"""Vision, audio and time-series models of transformers, from small configurations with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from zoo.entry import BATCH, Case, floats, images
from zoo.family_transformers_text import LOGITS, SIZES, STATE, VOCABULARY, model, tokens

TEXT = SIZES | {"bos_token_id": 1, "eos_token_id": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VIT |= {"image_size": 32, "patch_size": 8}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4]}
STAGES = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4]}
SPEECH = {**SIZES, "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
WHISPER = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
WHISPER |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8}
WHISPER |= {"max_source_positions": 10, "max_target_positions": 16, "vocab_size": VOCABULARY, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
PATCHES = {"num_input_channels": 2, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 16}

# With the usual 0.02 the signal dies in narrow layers, and an output that hardly depends on its input hides errors.
WIDE = {"initializer_range": 0.2}

IMAGE, LARGER = partial(images, 32), partial(images, 64)

Example = Callable[[], tuple[Tensor, ...]]
Row = tuple[str, Mapping[str, Any], Example, str]
"""Class, configuration, example, the output that is read."""

MODELS: dict[str, Row] = {
    "beit": ("BeitModel", VIT, IMAGE, STATE),
    "clip_text": ("CLIPTextModel", TEXT, partial(tokens, 10, VOCABULARY), STATE),
    "clip_vision": ("CLIPVisionModel", VIT, IMAGE, STATE),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, LARGER, STATE),
    "cvt": ("CvtModel", {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, LARGER, STATE),
    "deit": ("DeiTModel", VIT, IMAGE, STATE),
    "dinov2": ("Dinov2Model", VIT, IMAGE, STATE),
    "dpt": (
        "DPTForDepthEstimation",
        {**VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8]}
        | {"fusion_hidden_size": 8, "is_hybrid": False, **WIDE},
        IMAGE,
        "predicted_depth",
    ),
    "glpn": (
        "GLPNForDepthEstimation",
        {**PYRAMID, "decoder_hidden_size": 8, **WIDE},
        LARGER,
        "predicted_depth",
    ),
    "levit": (
        "LevitModel",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]},
        LARGER,
        STATE,
    ),
    "mobilevit": (
        "MobileViTModel",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], **WIDE},
        LARGER,
        STATE,
    ),
    "pvt": (
        "PvtModel",
        {**PYRAMID, "image_size": 64},
        LARGER,
        STATE,
    ),
    "regnet": (
        "RegNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "groups_width": 4},
        IMAGE,
        STATE,
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {**PYRAMID, "decoder_hidden_size": 16, "num_labels": 5},
        LARGER,
        LOGITS,
    ),
    "swin": ("SwinModel", {**STAGES, "image_size": 32, "patch_size": 4, "window_size": 4}, IMAGE, STATE),
    "swinv2": ("Swinv2Model", {**STAGES, "image_size": 32, "patch_size": 4, "window_size": 4}, IMAGE, STATE),
    "vit": ("ViTForImageClassification", {**VIT, "num_labels": 5}, IMAGE, LOGITS),
    "vivit": ("VivitModel", {**VIT, "num_frames": 4, "tubelet_size": [2, 8, 8]}, partial(floats, 4, 3, 32, 32), STATE),
    "yolos": (
        "YolosForObjectDetection",
        {**VIT, "image_size": [32, 32], "num_detection_tokens": 5, "num_labels": 4, **WIDE},
        IMAGE,
        LOGITS,
    ),
    "audio_spectrogram": (
        "ASTModel",
        {**VIT, "max_length": 24, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
        partial(floats, 24, 16),
        STATE,
    ),
    "hubert": ("HubertModel", SPEECH, partial(floats, 400), STATE),
    "patchtsmixer": ("PatchTSMixerModel", {**PATCHES, "num_layers": 2}, partial(floats, 32, 2), STATE),
    "patchtst": ("PatchTSTModel", {**PATCHES, "num_attention_heads": 2, "ffn_dim": 32}, partial(floats, 32, 2), STATE),
    "wav2vec2": ("Wav2Vec2Model", SPEECH, partial(floats, 400), STATE),
    "wavlm": ("WavLMModel", SPEECH, partial(floats, 400), STATE),
}


def build(name: str, config: Mapping[str, Any], example: Example, output: str) -> Case:
    """A model and an example of its own kind."""
    return Case(model(name, config), example(), {}, output)


def whisper() -> Case:
    """Speech to text: a spectrogram for the encoder, tokens for the decoder."""
    spectrogram, ids = torch.randn(BATCH, 8, 20), tokens(6, VOCABULARY)[0]
    kwargs = {"decoder_input_ids": ids, "use_cache": False}
    return Case(model("WhisperModel", WHISPER), (spectrogram,), kwargs, STATE)


def clip() -> Case:
    """Images against texts, whose score mixes the samples: the embedding of the image is read."""
    text, vision = dict(TEXT), dict(VIT)
    both = model("CLIPModel", {"text_config": text, "vision_config": vision, "projection_dim": 16})
    return Case(both, tokens(10, VOCABULARY) + images(32), {}, "image_embeds")


CASES: dict[str, Callable[[], Case]] = {
    **{name: partial(build, *row) for name, row in MODELS.items()},
    "whisper": whisper,
    "clip": clip,
}
"""Builders by name."""
