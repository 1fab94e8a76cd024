"""Small checkpoints of transformers with random weights, saved as published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

SPEECH: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": [8, 8],
    "conv_kernel": [20, 16], "conv_stride": [16, 10], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
EXTRACTOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
NETWORKS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "hubert": (transformers.HubertConfig, transformers.HubertModel, SPEECH, EXTRACTOR),
    "hubert_layer": (transformers.HubertConfig, transformers.HubertModel, SPEECH | LAYER, EXTRACTOR),
    "short": (  # a state for each sample, for clips of a few samples
        transformers.HubertConfig, transformers.HubertModel,
        SPEECH | LAYER | {"conv_kernel": [2, 2], "conv_stride": [1, 1]}, EXTRACTOR,
    ),
    "mert": (transformers.HubertConfig, transformers.HubertModel, SPEECH, EXTRACTOR | {"sampling_rate": 24000}),
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, SPEECH, EXTRACTOR | {"do_normalize": False}),
    "wav2vec2_layer": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, SPEECH | LAYER, EXTRACTOR),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, SPEECH, EXTRACTOR),
    "wavlm_layer": (transformers.WavLMConfig, transformers.WavLMModel, SPEECH | LAYER, EXTRACTOR),
    "data2vec": (
        transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel,
        SPEECH | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, EXTRACTOR,
    ),
    "ast": (
        transformers.ASTConfig, transformers.ASTModel,
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_length": 96},
        {"feature_extractor_type": "ASTFeatureExtractor", "max_length": 96},
    ),
    "clap": (
        transformers.ClapAudioConfig, transformers.ClapAudioModel,
        {"spec_size": 64, "num_mel_bins": 16, "depths": [2, 1], "num_attention_heads": [2, 2], "window_size": 4,
         "hidden_size": 32, "patch_embeds_hidden_size": 16, "num_hidden_layers": 2},
        {"feature_extractor_type": "ClapFeatureExtractor", "feature_size": 16, "max_length_s": 2,
         "frequency_min": 50, "truncation": "rand_trunc"},
    ),
    "whisper": (
        transformers.WhisperConfig, WhisperEncoder,
        {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
         "max_source_positions": 100},
        {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 2, "feature_size": 80},
    ),
}  # fmt: skip


def create_network(kind: str) -> Any:
    """Return a network in evaluation mode whose weights are random and whose norms differ from the identity."""
    config_class, network_class, config, _ = NETWORKS[kind]
    torch.manual_seed(0)
    network = network_class(config_class(**config)).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value += 0.1 * torch.randn_like(value)
    return network


def save_checkpoint(folder: Path, kind: str, **extractor: Any) -> Any:
    """Save a checkpoint with its feature extractor, and return its network.

    Args:
        folder: Folder of the checkpoint.
        kind: Key of NETWORKS.
        extractor: Other settings of the feature extractor.
    """
    network = create_network(kind)
    network.save_pretrained(folder)
    settings = NETWORKS[kind][3] | extractor
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if kind == "mert":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "mert_model"}))
    return network
