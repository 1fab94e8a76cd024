"""Tests of encoders of transformers: equal to extractor and network of one clip at a time, and refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.backbones.checkpoints import NETWORKS, SPEECH, save_checkpoint
from torch import Tensor

from etude.audio.frontend import FrontEnd
from etude.backbones.hf import HF
from etude.config.instantiate import make
from etude.embeddings.cache import forward_from_split, forward_to_split
from etude.embeddings.checkpoints import front_values, network_values
from etude.errors import UserError

SLOWER = ("mert", "wav2vec2", "wav2vec2_layer", "wavlm_layer")  # of the same classes as others
KINDS = [pytest.param(kind, marks=pytest.mark.full) if kind in SLOWER else kind for kind in NETWORKS if kind != "short"]
SECONDS = (0.3, 0.17, 0.3, 0.1)


def load(folder: Path, **options: Any) -> HF:
    """Return the encoder of a checkpoint in evaluation mode with its weights."""
    front = front_values(str(folder))
    net = HF(front["n_mels"], str(folder), network_values(str(folder)), **options)
    net.initialise()
    return net.eval()


@dataclass
class Case:
    """Checkpoint with its network of transformers, the encoder of the same weights, and clips."""

    kind: str
    folder: Path
    network: Any
    net: HF
    front: FrontEnd
    audio: list[np.ndarray]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Padded frames (B, T, F) and lengths (B,) of all clips."""
        frames = [torch.from_numpy(self.front.frames(clip)) for clip in self.audio]
        lengths = torch.tensor([len(clip) for clip in frames])
        return torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=7.0), lengths

    def reference(self, audio: np.ndarray, frames: int) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding (D,) and the mean state of each layer, by transformers' extractor and network."""
        name = NETWORKS[self.kind][3]["feature_extractor_type"]
        extractor = getattr(transformers, name).from_pretrained(self.folder)
        inputs = extractor(audio, sampling_rate=self.front.rate, return_tensors="pt")
        inputs = {key: value for key, value in inputs.items() if key != "attention_mask"}
        with torch.no_grad():
            out = self.network(**inputs, output_hidden_states=True)
        last = out.last_hidden_state[0]
        if self.kind == "clap":  # (D, frequency, time)
            return out.pooler_output[0], [state[0].mean((1, 2)) for state in out.hidden_states[:-1]]
        count = len(last)
        if self.kind == "ast":
            rows, columns = self.network.embeddings.get_shape(self.network.config)
            valid = min(columns, -(-frames // 10))
            states = [state[0, 2:].unflatten(0, (rows, columns))[:, :valid].mean((0, 1)) for state in out.hidden_states]
            return out.pooler_output[0], states[:-1]
        if self.kind == "whisper":
            count = -(-frames // 2)
        return last[:count].mean(0), [*(state[0, :count].mean(0) for state in out.hidden_states[:-1])]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("checkpoint")
    network = save_checkpoint(folder, request.param)
    front, rng = make(front_values(str(folder))), np.random.default_rng(0)
    audio = [(0.1 * rng.normal(size=round(front.rate * seconds))).astype(np.float32) for seconds in SECONDS]
    return Case(request.param, folder, network, load(folder), front, audio)


def test_outputs_equal_those_of_transformers_for_single_clips(case: Case) -> None:
    x, lengths = case.batch
    with torch.no_grad():
        z, states = case.net(x, lengths), case.net.hidden_states(x, lengths)
    assert z.shape == (len(x), case.net.dim)
    for clip, audio in enumerate(case.audio):
        embedding, hidden = case.reference(audio, int(lengths[clip]))
        tolerance = {"atol": 1e-4 if case.front.n_mels > 1 else 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(z[clip], embedding, **tolerance)
        assert len(hidden) == len(states) - 1
        for (values, counts), expected in zip(states, hidden, strict=False):
            torch.testing.assert_close(values[clip, : counts[clip]].mean(0), expected, **tolerance)


def test_padding_and_other_clips_change_nothing(case: Case) -> None:
    x, lengths = case.batch
    more = torch.nn.functional.pad(x, (0, 0, 0, 100), value=-3.0)
    with torch.no_grad():
        z, states, single = case.net(x, lengths), case.net.hidden_states(x, lengths), case.net(x[1:2], lengths[1:2])
        torch.testing.assert_close(case.net(more, lengths), z, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(z[1:2], single, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for (values, counts), (alone, count) in zip(
            states, case.net.hidden_states(x[1:2, : lengths[1]], lengths[1:2]), strict=True
        ):
            assert counts[1] == count[0]
            torch.testing.assert_close(values[1, : count[0]], alone[0, : count[0]], atol=1e-5, rtol=1e-5)


def test_long_clip_is_divided_into_windows(case: Case) -> None:
    net = load(case.folder, window=0.13)
    window = net.window
    assert window is not None
    x = torch.randn(2, 2 * window + window // 2, net.encoder.bins)
    lengths = torch.tensor([x.shape[1], window - window // 4])
    with torch.no_grad():
        parts = [x[:1, start : start + window] for start in (0, window, x.shape[1] - window)]
        expected = torch.cat([net(part, torch.tensor([window])) for part in parts]).mean(0)
        z, states = net(x, lengths), net.hidden_states(x, lengths)
        joined = [
            torch.cat(s, 1)
            for s in zip(*([v for v, _ in net.hidden_states(p, torch.tensor([window]))] for p in parts), strict=True)
        ]
    torch.testing.assert_close(z[0], expected, atol=1e-5, rtol=1e-5)
    for (values, counts), expected_states in zip(states, joined, strict=True):
        assert counts[0] == expected_states.shape[1]
        torch.testing.assert_close(values[:1, : counts[0]], expected_states, atol=1e-5, rtol=1e-5)


def test_network_can_be_split_after_every_layer(case: Case) -> None:
    x, lengths = case.batch
    net = load(case.folder, window=0.13)
    with torch.no_grad():
        for index in range(net.steps + 1):
            split = [forward_to_split(net, index, clip[None, :n]) for clip, n in zip(x, lengths, strict=True)]
            counts = torch.tensor([n for _, n in split])
            z = forward_from_split(net, index, [values for values, _ in split], counts)
            torch.testing.assert_close(z, net(x, lengths), atol=1e-5, rtol=1e-5)


def test_every_parameter_belongs_to_a_layer_and_is_trained(case: Case) -> None:
    net = load(case.folder).train()
    x, lengths = case.batch
    net(x, lengths).square().sum().backward()
    listed = {id(weight) for layer in net.layers() for weight in layer.parameters()}
    assert {id(weight) for weight in net.parameters()} == listed
    for name, weight in net.named_parameters():
        assert weight.grad is not None or not weight.requires_grad, name
    assert sum(not weight.requires_grad for weight in net.parameters()) == (case.kind == "whisper")  # fixed positions


def published(folder: Path, layout: str) -> None:
    """Save the tensors of a checkpoint in another published layout."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if layout == "old_weight_norm":
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new, old in names.items():
            tensors = {name.replace(new, old): value for name, value in tensors.items()}
        assert any(name.endswith("weight_g") for name in tensors)
        torch.save(tensors, folder / "pytorch_model.bin")
    elif layout == "bin":
        torch.save({name: value.half() for name, value in tensors.items()}, folder / "pytorch_model.bin")
    else:
        save, suffix, stem = (
            (torch.save, "bin", "pytorch_model") if layout == "sharded_bin" else (save_file, "safetensors", "model")
        )
        files = [f"{stem}-{number:05d}-of-00002.{suffix}" for number in (1, 2)]
        names = sorted(tensors)
        halves = [names[::2], names[1::2]]
        for file, half in zip(files, halves, strict=True):
            save({name: tensors[name] for name in half}, folder / file)
        weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("layout", ["old_weight_norm", "bin", "sharded_bin", "sharded_safetensors"])
def test_weights_are_read_from_every_published_layout(layout: str, tmp_path: Path) -> None:
    network = save_checkpoint(tmp_path, "hubert")
    published(tmp_path, layout)
    HF.check_weights({"model": str(tmp_path), "weights": "pretrained"})
    loaded = load(tmp_path).encoder.network.state_dict()
    for name, value in network.state_dict().items():
        if name != "masked_spec_embed":
            torch.testing.assert_close(loaded[name], value, atol=1e-3 if layout == "bin" else 0.0, rtol=0.0)


HEADS = {
    "hubert": ("HubertForCTC", {}),
    "wav2vec2": ("Wav2Vec2ForPreTraining", {"codevector_dim": 8, "proj_codevector_dim": 8}),
    "wavlm": ("WavLMForSequenceClassification", {}), "ast": ("ASTForAudioClassification", {}),
    "whisper": ("WhisperForConditionalGeneration", {"decoder_layers": 1, "decoder_attention_heads": 2,
                "decoder_ffn_dim": 8, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
                "decoder_start_token_id": 0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_a_checkpoint_are_ignored(kind: str, tmp_path: Path) -> None:
    name, options = HEADS[kind]
    config_class, _, config, extractor = NETWORKS[kind]
    network = getattr(transformers, name)(config_class(**config, **options))
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    base = network.model.encoder if kind == "whisper" else network.base_model
    loaded = load(tmp_path).encoder.network.state_dict()
    assert len(loaded) >= len(list(base.parameters())) - 1
    for key, value in base.state_dict().items():
        if key != "masked_spec_embed":
            torch.testing.assert_close(loaded[key], value)


def test_audio_tower_of_clap_is_read_from_a_complete_checkpoint(tmp_path: Path) -> None:
    text = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 20,
    }
    audio = NETWORKS["clap"][2] | {"enable_fusion": True}
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    network = transformers.ClapModel(config)
    network.save_pretrained(tmp_path)
    settings = NETWORKS["clap"][3] | {"truncation": "fusion"}
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    net = load(tmp_path)
    assert front_values(str(tmp_path))["htk"]
    for key, value in net.encoder.network.state_dict().items():
        torch.testing.assert_close(value, network.audio_model.state_dict()[key])


def change_tensors(folder: Path, removed: Sequence[str] = (), added: Sequence[str] = ()) -> None:
    """Remove and add tensors of a checkpoint."""
    tensors = {name: v for name, v in load_file(folder / "model.safetensors").items() if name not in removed}
    save_file(tensors | {name: torch.zeros(2) for name in added}, folder / "model.safetensors")


def test_partial_loads_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    gain = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    change_tensors(tmp_path, [gain], ["encoder.layers.9.attention.q_proj.bias", "encoder.layer_norm.bias"])
    with pytest.raises(UserError, match="1 tensors are missing") as caught:
        load(tmp_path)
    message = str(caught.value)
    assert gain in message and "1 tensors are unexpected (encoder.layers.9.attention" in message
    assert "1 tensors differ in shape (encoder.layer_norm.bias)" in message


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "undefined values"), (1, "not floating-point numbers")])
def test_damaged_and_quantised_weights_are_refused(value: float, message: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    tensors, name = load_file(tmp_path / "model.safetensors"), "encoder.layer_norm.weight"
    save_file(tensors | {name: torch.full(tensors[name].shape, value)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"1 tensors .*{message} \({name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "encodec"}, "type 'encodec' are not supported"),
        ({"model_type": "mert_model", "deepnorm": True}, "deepnorm"),
        ({"num_attention_heads": 5}, "not a valid config of hubert"),
        ({"conv_stride": [0, 2]}, "conv_stride must have values of at least 1"),
    ],
)
def test_unsupported_config_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=name):
        load(tmp_path)


def test_folder_without_weights_is_refused_before_a_network_is_built(tmp_path: Path) -> None:
    HF.check_weights({"model": str(tmp_path), "weights": None})
    with pytest.raises(UserError, match=r": has no weights; it needs one of model\.safetensors, "):
        HF.check_weights({"model": str(tmp_path), "weights": "pretrained"})


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    config = network_values(str(tmp_path))
    with pytest.raises(ValueError, match=r"backbone\.weights must be pretrained or null"):
        HF(1, str(tmp_path), config, weights="imagenet")
    with pytest.raises(ValueError, match=r"backbone\.window"):
        HF(1, str(tmp_path), config, window=0.0)
    with pytest.raises(UserError, match="use feature=hf"):
        HF(128, str(tmp_path), config)
    with pytest.raises(UserError, match="cannot be part of a graph"):
        HF(1, str(tmp_path), config).for_export()


def test_hub_is_asked_only_for_names_of_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, "hubert")

    def download(repository: str, name: str, revision: str | None) -> str:
        assert (repository, revision) == ("someone/encoder", None)
        if not (tmp_path / name).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    config = network_values("someone/encoder")
    net = HF(1, "someone/encoder", config)
    net.initialise()
    assert front_values("someone/encoder")["rate"] == 16000
    with pytest.raises(UserError, match="there is no such folder"):
        network_values("some/missing/folder")

    def fail(*_: str, **__: str | None) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"cannot be downloaded .* set backbone\.model=/path/to/folder"):
        network_values("someone/encoder")


def test_half_precision_of_packs_changes_waveform_embeddings_little(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    net, rng = load(tmp_path), np.random.default_rng(0)
    time = np.arange(16000) / 16000
    audio = 0.5 * np.sin(2 * np.pi * 220 * time) + 0.2 * np.sin(2 * np.pi * 1310 * time) + 0.01 * rng.normal(size=16000)
    x, lengths = torch.from_numpy(audio.astype(np.float32))[None, :, None], torch.tensor([16000])
    with torch.no_grad():
        exact, rounded = net(x, lengths), net(x.half().float(), lengths)
    assert (exact - rounded).norm() < 1e-3 * exact.norm()
    pcm = np.arange(-2048, 2049) / 32768  # samples of 16 bits up to 1/16 of full scale
    assert (pcm.astype(np.float16).astype(np.float64) == pcm).all()


def test_config_is_small_and_plain(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "hubert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a"}, "name": "${oc.env:HOME}"}))
    values = network_values(str(tmp_path))
    assert "id2label" not in values and "name" not in values
    assert values["conv_dim"] == SPEECH["conv_dim"] and values["extractor"]["sampling_rate"] == 16000
