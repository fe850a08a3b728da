"""transformers: tiny configurations of many architectures, called by keywords, with padding in the masks.

Models are asked for no cache, which is state for generating text; everything else is as the library has it: results are
its ModelOutput dataclasses, attention is scaled_dot_product_attention unless the name says eager.
"""

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tools.models import torchvision_models
from tools.zoo_suites.entry import Entry, Inputs, MakeInputs, padding, smooth, tokens

_VOCABULARY, _LENGTH = 64, 12
_TEXT: dict[str, Any] = {
    "vocab_size": _VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 32,
}  # fmt: skip
_DECODER: dict[str, Any] = {**_TEXT, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_key_value_heads": 2, "head_dim": 8}
_VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8}


def _text(batch: int, generator: torch.Generator, left: bool = False, **more: Callable[..., Tensor]) -> dict[str, Any]:
    found = {
        "input_ids": tokens(_VOCABULARY, _LENGTH, batch, generator),
        "attention_mask": padding(_LENGTH, batch, generator, left),
    }
    return found | {name: make(batch, generator) for name, make in more.items()}


def _segments(batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (batch, _LENGTH), generator=generator)


def _boxes(batch: int, generator: torch.Generator) -> Tensor:
    corner, size = torch.randint(500, (2, batch, _LENGTH, 2), generator=generator)
    return torch.cat([corner, corner + size], dim=-1)


def _to_decode(batch: int, generator: torch.Generator) -> Tensor:
    return tokens(_VOCABULARY, 7, batch, generator)


def _pixels(size: int) -> MakeInputs:
    return lambda batch, generator: {"pixel_values": smooth((batch, 3, size, size), generator)}


def _masked_pixels(batch: int, generator: torch.Generator) -> Inputs:
    mask = torch.ones(batch, 64, 64, dtype=torch.long)
    mask[:, 48:] = torch.randint(2, (batch, 1, 1), generator=generator)
    return {"pixel_values": smooth((batch, 3, 64, 64), generator), "pixel_mask": mask}


def _sound(batch: int, generator: torch.Generator) -> Inputs:
    return {"input_values": torch.randn(batch, 800, generator=generator)}


def _mel(batch: int, generator: torch.Generator) -> Inputs:
    return {"input_features": torch.randn(batch, 8, 32, generator=generator)}


def _picture_and_text(batch: int, generator: torch.Generator) -> Inputs:
    return {**_text(batch, generator), "pixel_values": smooth((batch, 3, 32, 32), generator)}


_left = partial(_text, left=True)
_segmented = partial(_text, token_type_ids=_segments)
_seq2seq = partial(_text, decoder_input_ids=_to_decode)
_GPT2 = {"vocab_size": _VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False}
_BLOOM = {"vocab_size": _VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False}
_T5 = {
    "vocab_size": _VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
}
_BART = {
    "vocab_size": _VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 32,
    "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}  # fmt: skip
_WAVE = {
    "vocab_size": _VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 3), "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    # These drop layers and mask stretches of time in training, by numbers that numpy draws.
    "layerdrop": 0.0, "apply_spec_augment": False,
}  # fmt: skip
_WHISPER = {**_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32, "d_model": 32}
_RESNET = {**_STAGES, "layer_type": "basic"}
_DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "num_queries": 5, "d_model": 32,
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
_TOWER = {**_TEXT, "num_hidden_layers": 1, "projection_dim": 16}
_EYE = {**_VISION, "num_hidden_layers": 1, "projection_dim": 16}
_PAIR = {"text_config": {**_TOWER, "eos_token_id": 2}, "vision_config": _EYE, "projection_dim": 16}
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

# Name, class, configuration, inputs.
_MODELS: tuple[tuple[str, str, dict[str, Any], MakeInputs], ...] = (
    ("bert", "BertModel", _TEXT, _segmented),
    ("bert-eager", "BertModel", {**_TEXT, "attn_implementation": "eager"}, _segmented),
    ("bert-classifier", "BertForSequenceClassification", _TEXT, _text),
    ("roberta", "RobertaModel", _TEXT, _text),
    ("distilbert", "DistilBertModel",
     {"vocab_size": _VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, _text),
    ("albert", "AlbertModel", {**_TEXT, "embedding_size": 16}, _segmented),
    ("electra", "ElectraModel", {**_TEXT, "embedding_size": 16}, _segmented),
    ("deberta-v2", "DebertaV2Model",
     {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16}, _text),
    ("mpnet", "MPNetModel", _TEXT, _text),
    ("layoutlm", "LayoutLMModel", _TEXT, partial(_text, bbox=_boxes)),
    ("gpt2", "GPT2LMHeadModel", _GPT2, _text),
    ("gpt2-eager", "GPT2Model", {**_GPT2, "attn_implementation": "eager"}, _text),
    ("opt", "OPTModel",
     {**_DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32, "layerdrop": 0.0}, _text),
    ("bloom", "BloomModel", _BLOOM, _text),
    ("llama", "LlamaForCausalLM", _GROUPED, _left),
    ("llama-eager", "LlamaModel", {**_GROUPED, "attn_implementation": "eager"}, _left),
    ("mistral", "MistralModel", {**_GROUPED, "sliding_window": 6}, _left),
    ("qwen2", "Qwen2Model", _GROUPED, _left),
    ("gemma", "GemmaModel", _GROUPED, _left),
    ("phi", "PhiModel", _DECODER, _left),
    ("t5-encoder", "T5EncoderModel", _T5, _text),
    ("t5", "T5Model", {**_T5, "decoder_start_token_id": 0}, _seq2seq),
    ("bart", "BartModel", _BART, _seq2seq),
    ("whisper", "WhisperModel", _WHISPER,
     lambda batch, generator: {**_mel(batch, generator), "decoder_input_ids": _to_decode(batch, generator)}),  # type: ignore[dict-item]
    ("wav2vec2", "Wav2Vec2Model", _WAVE, _sound),
    ("hubert", "HubertModel", _WAVE, _sound),
    ("vit", "ViTModel", _VISION, _pixels(32)),
    ("deit", "DeiTModel", _VISION, _pixels(32)),
    ("dinov2", "Dinov2Model", _VISION, _pixels(32)),
    ("beit", "BeitModel", {**_VISION, "use_relative_position_bias": True}, _pixels(32)),
    ("yolos", "YolosModel", {**_VISION, "image_size": [32, 32], "num_detection_tokens": 4}, _pixels(32)),
    ("swin", "SwinModel", _SWIN, _pixels(64)),
    ("swinv2", "Swinv2Model", _SWIN, _pixels(64)),
    ("segformer", "SegformerForSemanticSegmentation",
     {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16, "num_labels": 4,
      "num_attention_heads": [1, 2, 2, 4]}, _pixels(64)),
    ("convnext", "ConvNextModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, _pixels(64)),
    ("convnextv2", "ConvNextV2Model", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, _pixels(64)),
    ("resnet", "ResNetModel", _RESNET, _pixels(64)),
    ("regnet", "RegNetModel", {**_STAGES, "groups_width": 8}, _pixels(64)),
    ("mobilenet-v2", "MobileNetV2Model", {"depth_multiplier": 0.25}, _pixels(64)),
    ("mobilevit", "MobileViTModel",
     {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "image_size": 64}, _pixels(64)),
    ("detr", "DetrModel", _DETR, _masked_pixels),
    ("clip", "CLIPModel", _PAIR, _picture_and_text),
    ("clip-text", "CLIPTextModel", {**_TOWER, "eos_token_id": 2}, _text),
    ("clip-vision", "CLIPVisionModel", _EYE, _pixels(32)),
    ("siglip", "SiglipModel", _PAIR, _picture_and_text),
    ("siglip-vision", "SiglipVisionModel", _EYE, _pixels(32)),
)  # fmt: skip


def entries() -> list[Entry]:
    """Return the suite."""
    return [Entry(name, partial(_build, kind, settings), inputs) for name, kind, settings, inputs in _MODELS]


def _build(kind: str, settings: dict[str, Any]) -> nn.Module:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torchvision_models()  # transformers imports torchvision where it is installed
    library = importlib.import_module("transformers")
    model_class = getattr(library, kind)
    config_class = model_class.config_class
    settings = dict(settings)
    attention = settings.pop("attn_implementation", None)
    if kind == "DetrModel":
        settings["backbone_config"] = library.ResNetConfig(**_RESNET, out_features=["stage4"])
    config = config_class(**settings)
    if attention is not None:
        config._attn_implementation = attention
    model: nn.Module = model_class(config)
    return model
