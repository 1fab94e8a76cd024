"""Config and front end of published checkpoints of the library transformers, as plain values of a config.

Only the JSON files of a checkpoint are read. transformers is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etude.audio.checkpoint_fronts import ClapFront, WaveformFront, WhisperFront, read_model_json
from etude.audio.frontend import FrontEnd
from etude.errors import UserError

EXTRACTORS = {  # class of the feature extractor by `model_type`
    "audio-spectrogram-transformer": "ASTFeatureExtractor",
    "clap": "ClapFeatureExtractor",
    "clap_audio_model": "ClapFeatureExtractor",
    "whisper": "WhisperFeatureExtractor",
    "hubert": "Wav2Vec2FeatureExtractor",
    "mert_model": "Wav2Vec2FeatureExtractor",
    "wav2vec2": "Wav2Vec2FeatureExtractor",
    "wavlm": "Wav2Vec2FeatureExtractor",
    "data2vec-audio": "Wav2Vec2FeatureExtractor",
}
MAX_RATE = 192_000  # Hz; a damaged value would exhaust the memory
MAX_VALUES = 64  # values of a list in a config; longer ones are tokens of a decoder


def network_values(model: str) -> dict[str, Any]:
    """Return the config of a checkpoint's network as plain values of a config.

    Args:
        model: A folder, or the name of a repository of the Hugging Face hub.

    Returns:
        Values of config.json without those of heads and text, and values of the feature extractor under `extractor`.

    Raises:
        UserError: The checkpoint cannot be read, or is of a type that is not supported.
    """
    config, extractor = _read_configs(model)
    if config["model_type"] == "clap":
        if not isinstance(audio := config.get("audio_config", {}), dict):
            raise UserError(f"backbone.model={model}: audio_config in config.json must be a JSON object")
        config = {**audio, "model_type": "clap_audio_model"}
    return {**_plain(config), "extractor": _plain(extractor)}


def _read_configs(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config of a checkpoint's network, and the settings of its feature extractor.

    Raises:
        UserError: The checkpoint cannot be read, or is of a type that is not supported.
    """
    config = read_model_json(model, "config.json")
    if config is None:
        raise UserError(f"backbone.model={model}: has no config.json, so it is no checkpoint of transformers")
    return config, read_extractor(model, str(config.get("model_type")))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers, texts and short lists of a JSON object. A text must not be an interpolation of a config."""
    return {
        key: value
        for key, value in values.items()
        if not isinstance(value, dict)
        and not (
            isinstance(value, list) and (len(value) > MAX_VALUES or any(isinstance(v, list | dict) for v in value))
        )
        and "$" not in f"{key}{value}"
    }


def read_extractor(model: str, model_type: str) -> dict[str, Any]:
    """Return the settings of the feature extractor of a checkpoint.

    Args:
        model: A folder, or the name of a repository of the Hugging Face hub.
        model_type: Type of the network in its config.

    Raises:
        UserError: The network is of another type, or its feature extractor is missing or of another class.
    """
    if model_type not in EXTRACTORS:
        raise UserError(
            f"backbone.model={model}: networks of the type {model_type!r} are not supported; the supported types are "
            f"{', '.join(EXTRACTORS)}"
        )
    name = "preprocessor_config.json"
    settings = read_model_json(model, name)
    if settings is None:  # a processor of audio and text
        settings = (read_model_json(model, "processor_config.json") or {}).get("feature_extractor")
    if not isinstance(settings, dict):
        raise UserError(f"backbone.model={model}: has no {name}, which states its sample rate; copy it from its source")
    expected = EXTRACTORS[model_type]
    if (kind := settings.get("feature_extractor_type", expected)) != expected:
        raise UserError(f"backbone.model={model}: {name} is of a {kind}; {model_type} requires a {expected}")
    return settings


def front_values(model: str) -> dict[str, Any]:
    """Return the front end of a checkpoint as plain values of a config.

    Args:
        model: A folder, or the name of a repository of the Hugging Face hub.

    Raises:
        UserError: The checkpoint cannot be read, or is of a type that is not supported.
    """
    config, extractor = _read_configs(model)
    try:
        return _front(EXTRACTORS[config["model_type"]], extractor).to_dict()
    except (TypeError, ValueError) as error:
        raise UserError(f"backbone.model={model}: its feature extractor is not supported: {error}") from error


def _front(kind: str, settings: Mapping[str, Any]) -> FrontEnd:
    """Return the front end of a feature extractor. Missing settings have the defaults of its class.

    Raises:
        UserError: The feature extractor has settings that the front end does not support.
    """
    if int(settings.get("sampling_rate", 0)) > MAX_RATE:
        raise UserError(f"the sample rate must be at most {MAX_RATE} Hz, got {settings['sampling_rate']}")
    if kind == "Wav2Vec2FeatureExtractor":
        return WaveformFront(rate=int(settings.get("sampling_rate", 16000)))
    rate = int(settings.get("sampling_rate", 48000 if kind == "ClapFeatureExtractor" else 16000))
    if kind == "ClapFeatureExtractor":
        return ClapFront(
            rate=rate,
            n_fft=int(settings.get("fft_window_size", 1024)),
            hop_length=int(settings.get("hop_length", 480)),
            n_mels=int(settings.get("feature_size", 64)),
            fmin=float(settings.get("frequency_min", 0)),
            fmax=float(settings.get("frequency_max", 14000)),
            chunk=int(settings.get("max_length_s", 10)) * rate,
            padding=str(settings.get("padding", "repeatpad")),
            htk=settings.get("truncation", "fusion") == "fusion",
        )
    from etude.audio.kaldi import ASTFront  # imports torch

    if rate != 16000:
        raise UserError(f"the sample rate must be 16000 Hz, got {rate}")
    if kind == "WhisperFeatureExtractor":
        return WhisperFront(
            n_fft=int(settings.get("n_fft", 400)),
            hop_length=int(settings.get("hop_length", 160)),
            n_mels=int(settings.get("feature_size", 80)),
            chunk=int(settings.get("chunk_length", 30)) * rate,
        )
    mean, std = (
        (float(settings.get("mean", ASTFront.mean)), float(settings.get("std", ASTFront.std)))
        if settings.get("do_normalize", True)
        else (0.0, 0.5)  # the mean is subtracted, and the result is divided by twice the standard deviation
    )
    return ASTFront(n_mels=int(settings.get("num_mel_bins", 128)), mean=mean, std=std)
