"""Tests that front ends of checkpoints equal the feature extractors of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from etude.audio.checkpoint_fronts import ClapFront, WaveformFront, WhisperFront
from etude.audio.decode import decode
from etude.config.instantiate import make
from etude.embeddings.checkpoints import front_values
from etude.errors import UserError


def front_of(folder: Path, model_type: str, **settings: Any) -> Any:
    """Return the front end of a checkpoint with a feature extractor of these settings."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return make(front_values(str(folder)))


@pytest.mark.parametrize("samples", [1, 999, 32000 - 150, 32000, 49001])
@pytest.mark.parametrize("bins", [80, 128])
def test_whisper_frames_equal_those_of_its_extractor(
    samples: int, bins: int, clips: list[Path], tmp_path: Path
) -> None:
    audio = decode(clips[0], 16000)[:samples]
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=2)
    expected = extractor(audio, sampling_rate=16000, truncation=False, return_tensors="np")["input_features"][0].T
    front = front_of(tmp_path, "whisper", **extractor.to_dict())
    assert front == WhisperFront(n_mels=bins, chunk=32000)
    frames = front.frames(audio)
    assert len(frames) == (samples // 160 if samples >= 32000 else min(200, -(-(samples + 200) // 160)))
    padded = np.pad(frames, ((0, len(expected) - len(frames)), (0, 0)), constant_values=-1.5)
    np.testing.assert_allclose(np.maximum(padded, padded.max() - 2), expected, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
def test_clap_frames_equal_those_of_its_extractor(
    seconds: float, truncation: str, clips: list[Path], tmp_path: Path
) -> None:
    audio = decode(clips[0], 48000)[: round(48000 * seconds)]
    extractor = transformers.ClapFeatureExtractor(max_length_s=2, frequency_min=50, truncation=truncation)
    expected = extractor(audio, sampling_rate=48000, return_tensors="np")["input_features"][0, 0]
    front = front_of(tmp_path, "clap", **extractor.to_dict())
    np.testing.assert_allclose(front.frames(audio), expected, atol=1e-4)


@pytest.mark.parametrize("padding", ["repeat", "pad"])
def test_other_paddings_of_clap_equal_those_of_its_extractor(padding: str, clips: list[Path], tmp_path: Path) -> None:
    audio = decode(clips[0], 48000)[:36000]
    extractor = transformers.ClapFeatureExtractor(max_length_s=1, padding=padding)
    expected = extractor(audio, sampling_rate=48000, return_tensors="np")["input_features"][0, 0]
    front = front_of(tmp_path, "clap_audio_model", **extractor.to_dict())
    np.testing.assert_allclose(front.frames(audio), expected, atol=1e-4)


def test_longer_clap_clip_has_a_frame_every_hop(clips: list[Path]) -> None:
    front, audio = ClapFront(chunk=48000), decode(clips[0], 48000)[:144000]
    assert front.frames(audio).shape == (301, 64)
    with pytest.raises(UserError, match=r"feature\.front\.padding must be"):
        ClapFront(padding="zeros")


@pytest.mark.parametrize("normalises", [True, False])
def test_ast_frames_equal_those_of_its_extractor(normalises: bool, clips: list[Path], tmp_path: Path) -> None:
    extractor = transformers.ASTFeatureExtractor(max_length=98, do_normalize=normalises, mean=-3.0, std=2.0)
    audio = decode(clips[0], 16000)[:16000]
    expected = extractor(audio, sampling_rate=16000, return_tensors="np")["input_values"][0]
    front = front_of(tmp_path, "audio-spectrogram-transformer", **extractor.to_dict())
    scale = 1.0 if normalises else 4.0  # twice the standard deviation, by which values are not divided
    np.testing.assert_allclose(front.frames(audio), expected, atol=1e-4 * scale)


def test_waveform_frames_are_samples(tmp_path: Path) -> None:
    front = front_of(tmp_path, "mert_model", sampling_rate=24000)
    assert front == WaveformFront(rate=24000)
    audio = np.linspace(-1, 1, 50, dtype=np.float32)
    assert (front.frames(audio) == audio[:, None]).all() and front.bins == 1
    frames, lengths = front.as_module((0, 1))(torch.from_numpy(audio)[None], torch.tensor([50]))
    assert (frames[0].numpy() == audio[:, None]).all() and lengths.tolist() == [50]


@pytest.mark.parametrize(
    ("model_type", "settings", "message"),
    [
        ("whisper", {"sampling_rate": 8000}, "sample rate must be 16000"),
        ("clap", {"padding": "zeros"}, "padding must be"),
        ("hubert", {"feature_extractor_type": "SpeechT5FeatureExtractor"}, "requires a Wav2Vec2FeatureExtractor"),
        ("bert", {}, "'bert' are not supported"),
    ],
)
def test_unsupported_extractor_is_refused(
    model_type: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        front_of(tmp_path, model_type, **settings)
