"""Text models of transformers, from small configurations with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor
from zoo.entry import Case, tokens
from zoo.shim import load

VOCABULARY, LENGTH = 64, 10

# Most configurations know these names; a row below overrides or extends them.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"num_key_value_heads": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
STATE, LOGITS, QUIET = "last_hidden_state", "logits", {"use_cache": False}

Row = tuple[str, Mapping[str, Any], str, Mapping[str, Any]]
"""Class, configuration beyond SIZES, the output that is read, keywords of the call."""

ENCODERS: dict[str, Row] = {
    "albert": ("AlbertModel", {"embedding_size": 16}, STATE, {}),
    "bert": ("BertModel", {}, STATE, {}),
    "bert_masked_lm": ("BertForMaskedLM", {}, LOGITS, {}),
    "camembert": ("CamembertModel", {"pad_token_id": 1}, STATE, {}),
    "convbert": ("ConvBertModel", {"embedding_size": 32}, STATE, {}),
    "deberta": ("DebertaModel", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, STATE, {}),
    "deberta_v2": ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, STATE, {}),
    "distilbert": ("DistilBertModel", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, STATE, {}),
    "electra": ("ElectraModel", {"embedding_size": 16}, STATE, {}),
    "esm": ("EsmModel", {"pad_token_id": 1, "position_embedding_type": "rotary"}, STATE, {}),
    "fnet": ("FNetModel", {}, STATE, {}),
    "funnel": (
        "FunnelModel",
        {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1], "num_decoder_layers": 1},
        STATE,
        {},
    ),
    "mobilebert": ("MobileBertModel", {"embedding_size": 16, "intra_bottleneck_size": 16}, STATE, {}),
    "modernbert": ("ModernBertModel", {**SPECIAL, "cls_token_id": 1, "sep_token_id": 2}, STATE, {}),
    "mpnet": ("MPNetModel", {"pad_token_id": 1}, STATE, {}),
    "roberta": ("RobertaModel", {"pad_token_id": 1}, STATE, {}),
    "roformer": ("RoFormerModel", {"embedding_size": 32}, STATE, {}),
    "squeezebert": ("SqueezeBertModel", {"embedding_size": 32}, STATE, {}),
    "t5_encoder": ("T5EncoderModel", {**T5, "is_decoder": False}, STATE, {}),
    "xlnet": ("XLNetModel", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, STATE, {"use_mems": False}),
}

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

DECODERS: dict[str, Row] = {
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 4, **SPECIAL}, LOGITS, QUIET),
    "codegen": ("CodeGenForCausalLM", {**GPT, "rotary_dim": 4, **SPECIAL}, LOGITS, QUIET),
    "falcon": ("FalconForCausalLM", {**SPECIAL}, LOGITS, QUIET),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 8}, LOGITS, QUIET),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8}, LOGITS, QUIET),
    "gpt2": ("GPT2LMHeadModel", {**GPT, **SPECIAL}, LOGITS, QUIET),
    # The width, depth and heads of the real one; its 50,257 words are one embedding, so fewer do.
    "gpt2_medium": (
        "GPT2LMHeadModel",
        {"n_embd": 1024, "n_layer": 24, "n_head": 16, "n_positions": 64, "vocab_size": 1000, **SPECIAL},
        LOGITS,
        QUIET,
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4, **SPECIAL},
        LOGITS,
        QUIET,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**SPECIAL}, LOGITS, QUIET),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4, **SPECIAL}, LOGITS, QUIET),
    "llama": ("LlamaForCausalLM", GROUPED, LOGITS, QUIET),
    "mamba": ("MambaForCausalLM", {"state_size": 4, "time_step_rank": 4, **SPECIAL}, LOGITS, QUIET),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 4}, LOGITS, QUIET),
    # The default kernel of the experts does not run in float64.
    "mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 3, "experts_implementation": "batched_mm"},
        LOGITS,
        QUIET,
    ),
    "olmo2": ("Olmo2ForCausalLM", {**GROUPED, **SPECIAL}, LOGITS, QUIET),
    "opt": ("OPTForCausalLM", {"ffn_dim": 64, "word_embed_proj_dim": 16, **SPECIAL}, LOGITS, QUIET),
    "phi": ("PhiForCausalLM", {**SPECIAL}, LOGITS, QUIET),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, **SPECIAL}, LOGITS, QUIET),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED}, LOGITS, QUIET),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}, LOGITS, QUIET),
    "rwkv": ("RwkvForCausalLM", {"context_length": 64, **SPECIAL}, LOGITS, QUIET),
    "stablelm": ("StableLmForCausalLM", {**GROUPED, **SPECIAL}, LOGITS, QUIET),
}

BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **SPECIAL}

PAIRS: dict[str, Row] = {
    "bart": ("BartModel", BART, STATE, QUIET),
    "pegasus": ("PegasusModel", BART, STATE, QUIET),
    "t5": ("T5ForConditionalGeneration", T5, LOGITS, QUIET),
}


def model(name: str, config: Mapping[str, Any], sizes: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A model class of transformers with random weights; of `sizes` it takes what its configuration knows and lacks."""
    kind = getattr(load("transformers"), name)
    fields, renamed = kind.config_class().to_dict(), kind.config_class.attribute_map
    small = {renamed.get(key, key): value for key, value in sizes.items() if renamed.get(key, key) in fields}
    return kind(kind.config_class(**small | dict(config)))


def single(name: str, config: Mapping[str, Any], output: str, kwargs: Mapping[str, Any]) -> Case:
    """A model of one token sequence."""
    return Case(model(name, config, SIZES), tokens(LENGTH, VOCABULARY), kwargs, output)


def pair(name: str, config: Mapping[str, Any], output: str, kwargs: Mapping[str, Any]) -> Case:
    """An encoder with a decoder, each with its own tokens; nothing is padded."""
    keywords: dict[str, Any] = dict(kwargs)
    source, target = tokens(LENGTH, VOCABULARY)[0], tokens(LENGTH - 2, VOCABULARY)[0]
    mask: Tensor = source > 0
    return Case(model(name, config, SIZES), (source, mask.long(), target), keywords, output)


CASES: dict[str, Callable[[], Case]] = {
    **{name: partial(single, *row) for name, row in (ENCODERS | DECODERS).items()},
    **{name: partial(pair, *row) for name, row in PAIRS.items()},
}
"""Builders by name."""


def nystrom() -> Case:
    """Attention whose approximate inverse starts from the largest entry of the whole batch."""
    config = {"segment_means_seq_len": LENGTH, "num_landmarks": 5}
    case = single("NystromformerModel", config, STATE, {})
    case.model.eval()
    return case


REFUSED: dict[str, Callable[[], Case]] = {"nystromformer": nystrom}
"""Builders of models that mix the samples of a batch."""
