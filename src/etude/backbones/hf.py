"""Pretrained audio encoders of the library transformers, from a local folder or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.checkpoint_fronts import find_model_file, read_model_json
from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone, State
from etude.backbones.hf_encoders import ASTEncoder, ClapEncoder, Encoder, WaveformEncoder, WhisperEncoder
from etude.config.stored import PRETRAINED
from etude.errors import UserError, one_line_message
from etude.files.safe_read import read_tensors

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # a file, or an index of several, in order of preference
NO_WEIGHTS = f"backbone.model={{model}}: has no weights; it needs one of {', '.join(WEIGHTS)} or their index"
CHUNK = 1 << 20  # frames whose input embedding is computed together; the convolutions of a second need 20 MB
NAMED = 3  # tensors in an error message


class HF(Backbone):
    """Encoder of a published checkpoint, with the checkpoint's own frames, windows and normalisation.

    The supported types are HuBERT (and MERT), wav2vec 2.0, WavLM and data2vec-audio on raw waveforms, and AST, Whisper
    and the audio tower of CLAP on log-mel frames. A clip that is longer than a window is divided into windows, of which
    the last ends with the clip. Its embedding is the mean over its windows. The embedding of a window is the mean over
    time of the last states, except for AST (the mean of its two tokens).

    Args:
        bins: Feature bins per frame, F.
        model: Folder of the checkpoint, or a repository of the Hugging Face hub.
        config: Config of the network as plain values, from `embeddings.checkpoints.network_values`. A run stores it, so
            that its folder does not depend on the checkpoint.
        weights: `pretrained`, or None for random weights.
        window: Length of a window of raw waveform in seconds; None processes complete clips. The windows of other
            frames have the fixed length of the checkpoint.

    Attributes:
        dim: Size of the embedding, D.

    Raises:
        ValueError: An option has no valid value.
        UserError: The checkpoint cannot be read or is not supported, or the frames have another number of bins.
    """

    axis = 0  # of windows
    skips_standardisation = True
    weights_keys = ("weights", "model")
    libraries = ("torch", "transformers")

    def __init__(
        self,
        bins: int,
        model: str,
        config: Mapping[str, Any],
        weights: str | None = PRETRAINED,
        window: float | None = 30.0,
    ) -> None:
        super().__init__()
        if weights not in (None, PRETRAINED):
            raise ValueError(f"backbone.weights must be {PRETRAINED} or null, got {weights!r}")
        if window is not None and window <= 0:
            raise ValueError(f"backbone.window must be greater than 0 or null, got {window!r}")
        self.model, self.weights = model, weights
        self.encoder: Encoder = create_encoder(config)
        if bins != self.encoder.bins:
            raise UserError(
                f"backbone=hf: {model} takes frames of {self.encoder.bins} bins, got {bins}; use feature=hf"
            )
        self.required_front_end = self.encoder.front_end
        self.dim, self.steps = self.encoder.dim, len(self.encoder.blocks)
        self.min_frames = max(32, self.encoder.min_frames)
        rate = config["extractor"].get("sampling_rate", 16000)
        self.window = self.encoder.window
        if self.window is None and window is not None:
            self.window = max(round(window * rate), self.encoder.min_frames)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Divide clips (B, T, F) into windows, and compute their input embedding.

        Returns:
            States (N, S, D) of all windows, valid frames (B,) of the clips, valid states (N,), and the number of
            windows of each clip (B,).
        """
        sizes, n_windows = self._divide(lengths)
        clips = torch.repeat_interleave(torch.arange(len(x), device=x.device), n_windows)
        position = torch.arange(len(clips), device=x.device) - (n_windows.cumsum(0) - n_windows)[clips]
        starts = torch.minimum(position * (self.window or 0), lengths[clips] - sizes)
        width = self.encoder.window or int(sizes.max())
        if len(clips) == len(x):
            windows = F.pad(x[:, :width], (0, 0, 0, max(0, width - x.shape[1])))
        else:
            index = starts[:, None] + torch.arange(width, device=x.device)
            windows = x[clips[:, None], index.clamp(max=x.shape[1] - 1)]
        windows = torch.where(valid(sizes, width)[..., None], windows, 0.0)
        # a batch norm in training needs all windows at once
        chunk = len(windows) if self.encoder.input_modules()[0].training else max(1, CHUNK // width)
        parts = zip(windows.split(chunk), sizes.split(chunk), strict=True)
        states = torch.cat([self.encoder.embed(*part) for part in parts])
        return states, lengths, self.encoder.count(sizes), n_windows

    def step(self, index: int, state: State) -> State:
        """Run one block on all windows."""
        states, lengths, counts, n_windows = state
        return self.encoder.run(index, states, counts), lengths, counts, n_windows

    def end(self, state: State) -> Tensor:
        """Return the mean over the windows of each clip, (B, D)."""
        states, _, counts, n_windows = state
        z = self.encoder.pool(self._normalise(states), counts)
        if len(z) == len(n_windows):
            return z
        clips = torch.repeat_interleave(torch.arange(len(n_windows), device=z.device), n_windows)
        return z.new_zeros(len(n_windows), z.shape[1]).index_add(0, clips, z) / n_windows[:, None]

    def collate(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """Collate the windows of clips, padded to the largest number of states."""
        longest = max(clip.shape[1] for clip in values)
        states = torch.cat([F.pad(clip, (0, 0, 0, longest - clip.shape[1])) for clip in values])
        sizes, n_windows = self._divide(lengths)
        return states, lengths, self.encoder.count(sizes), n_windows

    def hidden_states(self, x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute the states of all layers as in the base class.

        State 0 is the input of the first block. The states of the windows of a clip follow each other. Patches are
        averaged over frequency. The last state includes the final norm.
        """
        return self._run_with_states(x, lengths)[0]

    def _run_with_states(self, x: Tensor, lengths: Tensor) -> tuple[list[tuple[Tensor, Tensor]], State]:
        state = self.begin(x, lengths)
        outputs = [state[0]]
        for index in range(self.steps):
            state = self.step(index, state)
            outputs.append(state[0])
        outputs[-1] = self._normalise(outputs[-1])
        _, _, counts, n_windows = state
        by_window = [self.encoder.over_time(states, counts, layer) for layer, states in enumerate(outputs)]
        return [join_windows(*window_states, n_windows) for window_states in by_window], state

    def layers(self) -> list[nn.Module]:
        """Return the input embedding, the blocks, and the final norm if there is one."""
        norm = [] if self.encoder.norm is None else [self.encoder.norm]
        return [nn.ModuleList(self.encoder.input_modules()), *self.encoder.blocks, *norm]

    @classmethod
    def check_weights(cls, config: Mapping[str, Any]) -> None:
        """Check that a local folder has weights. A repository of the hub is downloaded later."""
        folder = Path(config["model"]).expanduser()
        files = [folder / f"{name}{suffix}" for name in WEIGHTS for suffix in ("", ".index.json")]
        if config.get("weights") is not None and folder.is_dir() and not any(path.is_file() for path in files):
            raise UserError(NO_WEIGHTS.format(model=config["model"]))

    def initialise(self) -> None:
        """Load the published weights.

        Raises:
            UserError: The weights cannot be read, or do not fit the network completely.
        """
        if self.weights is None:
            return
        own = self.encoder.network.state_dict()
        tensors = _rename_tensors(_read_weights(self.model), self.encoder, own)
        missing, unexpected = (
            [name for name in own if name not in tensors],
            [name for name in tensors if name not in own],
        )
        common = [(name, own[name], tensors[name]) for name in own if name in tensors]
        shapes = [name for name, expected, value in common if expected.shape != value.shape]
        numbers = [(name, value) for name, expected, value in common if expected.is_floating_point()]
        quantised = [name for name, value in numbers if not value.is_floating_point()]
        invalid = [name for name, value in numbers if not value.isfinite().all()]
        problems = [
            f"{len(names)} tensors {problem} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
            for names, problem in (
                (missing, "are missing"),
                (unexpected, "are unexpected"),
                (shapes, "differ in shape"),
                (quantised, "are not floating-point numbers"),
                (invalid, "have infinite or undefined values"),
            )
            if names
        ]
        if problems:
            raise UserError(f"backbone.model={self.model}: its weights do not fit its config: {'; '.join(problems)}")
        self.encoder.network.load_state_dict(tensors)

    def for_export(self) -> Self:
        """Refuse the export as a graph.

        Raises:
            UserError: Always, because the operations depend on the values of tensors.
        """
        raise UserError("export: backbone=hf cannot be part of a graph; use --format safetensors")

    def _divide(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the valid frames of each window (N,), and the number of windows of each clip (B,)."""
        if self.window is None:
            return lengths, torch.ones_like(lengths)
        n_windows = -(-lengths // self.window)
        return torch.repeat_interleave(lengths.clamp(max=self.window), n_windows), n_windows

    def _normalise(self, states: Tensor) -> Tensor:
        return states if self.encoder.norm is None else self.encoder.norm(states)


def join_windows(states: Tensor, counts: Tensor, n_windows: Tensor) -> tuple[Tensor, Tensor]:
    """Join the states of the windows of each clip.

    Args:
        states: States of all windows (N, S, D).
        counts: Valid states (N,).
        n_windows: Number of windows of each clip (B,).

    Returns:
        States by clip (B, T, D), and the number of valid states of each clip (B,).
    """
    if len(states) == len(n_windows):
        return states, counts
    clips = torch.repeat_interleave(torch.arange(len(n_windows), device=states.device), n_windows)
    totals = counts.new_zeros(len(n_windows)).index_add(0, clips, counts)
    mask = valid(totals, int(totals.max()))
    joined = states.new_zeros(*mask.shape, states.shape[2])
    return joined.masked_scatter(mask[..., None], states[valid(counts, states.shape[1])]), totals


def create_encoder(config: Mapping[str, Any]) -> Encoder:
    """Create the encoder of a checkpoint's config with random weights.

    Args:
        config: Plain values of the config, with those of the feature extractor under `extractor`.

    Raises:
        UserError: transformers is not installed, or the config describes a network that is not supported.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("backbone=hf requires transformers, which is not installed: pip install 'etude[hf]'") from error
    kind = config["model_type"]
    classes: dict[str, tuple[Any, Any, type[Encoder]]] = {
        "hubert": (transformers.HubertConfig, transformers.HubertModel, WaveformEncoder),
        "mert_model": (transformers.HubertConfig, transformers.HubertModel, WaveformEncoder),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, WaveformEncoder),
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, WaveformEncoder),
        "data2vec-audio": (transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel, WaveformEncoder),
        "audio-spectrogram-transformer": (transformers.ASTConfig, transformers.ASTModel, ASTEncoder),
        "clap_audio_model": (transformers.ClapAudioConfig, transformers.ClapAudioModel, ClapEncoder),
        "whisper": (
            transformers.WhisperConfig, transformers.models.whisper.modeling_whisper.WhisperEncoder, WhisperEncoder
        ),
    }  # fmt: skip
    if kind == "mert_model" and (
        config.get("deepnorm") or config.get("feature_extractor_cqt") or config.get("attention_relax", -1) > 0
    ):
        raise UserError(
            "backbone.model: this MERT has deepnorm, attention_relax or feature_extractor_cqt, which HuBERT lacks; use "
            "MERT-v1"
        )
    config_class, network_class, encoder_class = classes[kind]
    values = {key: value for key, value in config.items() if key not in ("model_type", "extractor")}
    # nothing is dropped or masked at random between the layers, so that frozen layers are deterministic
    values |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0, "add_adapter": False}
    values |= {"enable_fusion": False} if kind == "clap_audio_model" else {}
    try:
        return encoder_class(network_class(config_class(**values)), config)
    except Exception as error:  # transformers checks some values by assertions or fails at them
        raise UserError(f"backbone.config: is not a valid config of {kind} ({one_line_message(error, 300)})") from error


def _read_weights(model: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, from one file or several, as safetensors or files of torch.

    Args:
        model: A folder, or the name of a repository of the Hugging Face hub.

    Raises:
        UserError: The checkpoint has no weights, or a file cannot be read.
    """
    for name in WEIGHTS:
        if (path := find_model_file(model, name)) is not None:
            return read_tensors(path)
        if (index := read_model_json(model, f"{name}.index.json")) is None:
            continue
        tensors: dict[str, Tensor] = {}
        files = index.get("weight_map")
        for file in sorted(set(map(str, files.values()))) if isinstance(files, dict) else []:
            path = find_model_file(model, file) if re.fullmatch(r"[\w.-]+", file) else None
            if path is None:
                raise UserError(f"backbone.model={model}: {name}.index.json names {file}, which is missing")
            tensors |= read_tensors(path)
        return tensors
    raise UserError(NO_WEIGHTS.format(model=model))


def _rename_tensors(tensors: Mapping[str, Tensor], encoder: Encoder, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by the names of the network, without those that do not belong to the encoder.

    Args:
        tensors: Tensors by their published names.
        encoder: The encoder.
        own: State dict of its network.
    """
    renamed, ignored = {}, tuple(encoder.ignored)
    for name, value in tensors.items():
        key = name
        for prefix in encoder.prefixes:
            key = key.removeprefix(prefix)
        for pattern, replacement in encoder.renames:
            key = re.sub(pattern, replacement, key)
        if key in own or not (name.startswith(ignored) or key.startswith(ignored)):
            renamed[key] = value
    return renamed
