"""Audio encoders of the library transformers, run layer by layer on windows of clips.

The layers are those of transformers' own classes; remote code is never run. Only the few lines between the layers are
repeated here, so that every layer can be frozen, read out and cached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import valid

WEIGHT_NORM = ((r"\.weight_g$", ".parametrizations.weight.original0"),
               (r"\.weight_v$", ".parametrizations.weight.original1"))  # fmt: skip


class Encoder(nn.Module):
    """Base class of encoders, which compute states from windows of frames.

    Args:
        network: Network of transformers.
        config: Plain values of its config, with those of its feature extractor under `extractor`.

    Attributes:
        dim: Width of the last states.
        bins: Number of bins of a frame, F.
        front_end: Dotted name of the front end.
        window: Number of frames of a window; None if windows of any length are possible.
        min_frames: Smallest number of frames that gives a state. Shorter windows are padded.
        prefixes: Prefixes of the names of tensors in checkpoints with heads.
        renames: Patterns in the names of published tensors, and their replacements.
        ignored: Prefixes of the names of tensors that do not belong to the encoder.
    """

    front_end: str
    prefixes: Sequence[str] = ()
    renames: Sequence[tuple[str, str]] = ()
    ignored: Sequence[str] = ()
    bins: int = 1
    window: int | None = None
    min_frames: int = 1

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network: Any = network
        self.dim = int(getattr(network.config, "hidden_size", 0))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Layers after the input embedding."""
        return self.network.layers

    @property
    def norm(self) -> nn.Module | None:
        """Norm of the last states."""
        return self.network.layer_norm

    def input_modules(self) -> list[nn.Module]:
        """Return the modules of the input embedding, from input to output."""
        raise NotImplementedError

    def count(self, sizes: Tensor) -> Tensor:
        """Return the number of valid states of windows with `sizes` (N,) valid frames."""
        raise NotImplementedError

    def embed(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Compute the input embedding (N, S, D) of windows (N, T, F) with `sizes` (N,) valid frames.

        Frames after the valid ones are 0.
        """
        raise NotImplementedError

    def run(self, index: int, states: Tensor, counts: Tensor) -> Tensor:
        """Run a block on states (N, S, D) with `counts` (N,) valid states."""
        return _first(self.blocks[index](states, None))

    def over_time(self, states: Tensor, counts: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return the states of layer `layer` over time (N, S', D), and their valid numbers (N,).

        Tokens without a position are left out. Layer 0 is the input embedding.
        """
        return states, counts

    def pool(self, states: Tensor, counts: Tensor) -> Tensor:
        """Return the embedding (N, D) of each window from its last states."""
        mask = valid(counts, states.shape[1])[..., None]
        return torch.where(mask, states, 0.0).sum(1) / counts[:, None]


class WaveformEncoder(Encoder):
    """Encoder of raw waveforms: HuBERT and MERT, wav2vec 2.0, WavLM or data2vec-audio.

    Windows of different lengths are masked where the network supports this exactly. Otherwise the windows of one length
    are processed together: a group norm over time would include the padding, and the positional convolutions of
    data2vec-audio fill it between their layers. WavLM computes its position bias for one length.
    """

    front_end = "etude.audio.checkpoint_fronts.WaveformFront"
    prefixes = ("hubert.", "wav2vec2.", "wavlm.", "data2vec_audio.")
    renames = WEIGHT_NORM
    # vector of masked frames in pretraining, quantiser and heads
    ignored = ("masked_spec_embed", "adapter.", "quantizer.", "project_hid.", "project_q.", "lm_head.", "projector.",
               "classifier.", "layer_weights", "tdnn.", "objective.", "final_proj.", "label_embs_concat")  # fmt: skip

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__(network, config)
        own = self.network.config
        self.normalises = bool(config["extractor"].get("do_normalize", True))
        self.stable = bool(getattr(own, "do_stable_layer_norm", False))  # the norm is after the last block
        self.wavlm = own.model_type == "wavlm"
        batch_norm = bool(getattr(own, "conv_pos_batch_norm", False))
        self.masked = own.model_type in ("hubert", "wav2vec2") and own.feat_extract_norm == "layer" and not batch_norm
        self.convolutions = [*zip(own.conv_kernel, own.conv_stride, strict=True)]
        if min((*own.conv_kernel, *own.conv_stride), default=0) < 1:
            raise ValueError("conv_kernel and conv_stride must have values of at least 1")
        for kernel, stride in reversed(self.convolutions):
            self.min_frames = (self.min_frames - 1) * stride + kernel
        self.network.feature_extractor._requires_grad = False  # otherwise frozen layers would compute gradients

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Layers after the input embedding."""
        return self.network.encoder.layers

    @property
    def norm(self) -> nn.Module | None:
        """Norm of the last states, if it is not before the first block."""
        return self.network.encoder.layer_norm if self.stable else None

    def input_modules(self) -> list[nn.Module]:
        """Return the convolutions, their projection, the positional convolution, and a norm before the first block."""
        net = self.network.encoder
        modules = [self.network.feature_extractor, self.network.feature_projection, net.pos_conv_embed]
        return [*modules, *([] if self.stable else [net.layer_norm]), net.dropout]

    def count(self, sizes: Tensor) -> Tensor:
        """Return the number of states of windows with `sizes` (N,) valid samples."""
        sizes = sizes.clamp(min=self.min_frames)
        for kernel, stride in self.convolutions:
            sizes = (sizes - kernel) // stride + 1
        return sizes

    def embed(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Compute the input embedding of samples (N, T, 1), normalised over the valid ones if the checkpoint does."""
        x = x[..., 0]
        mask = valid(sizes, x.shape[1])
        if self.normalises:
            count = sizes[:, None]
            centred = torch.where(mask, x - x.sum(1, keepdim=True) / count, 0.0)
            x = centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()
        x = F.pad(x, (0, max(0, self.min_frames - x.shape[1])))
        if self.masked:
            return self._embed(x, self.count(sizes))
        return _by_length(
            self._embed, x, sizes.clamp(min=self.min_frames), int(self.count(sizes.new_tensor(x.shape[1])))
        )

    def _embed(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Compute the input embedding of normalised samples (N, T); states after `counts` (N,) are set to 0 first."""
        net = self.network.encoder
        states = _first(self.network.feature_projection(self.network.feature_extractor(x).transpose(1, 2)))
        if counts is not None:
            states = torch.where(valid(counts, states.shape[1])[..., None], states, 0.0)
        states = states + net.pos_conv_embed(states)
        return net.dropout(states if self.stable else net.layer_norm(states))

    def run(self, index: int, states: Tensor, counts: Tensor) -> Tensor:
        """Run a block on valid states."""
        layer = self.blocks[index]
        if self.masked:
            mask = valid(counts, states.shape[1])
            return _first(layer(states, attention_mask=None if mask.all() else mask[:, None, None]))
        return _by_length(lambda x: _first(layer(x, **self._position_bias(x))), states, counts, states.shape[1])

    def _position_bias(self, states: Tensor) -> dict[str, Tensor]:
        """Return the position bias of WavLM, which the first block computes from the number of states."""
        if not self.wavlm:
            return {}
        first: Any = self.blocks[0]
        bias = first.attention.compute_bias(states.shape[1], states.shape[1])
        return {"position_bias": bias.repeat(len(states), 1, 1)}


class ASTEncoder(Encoder):
    """Audio Spectrogram Transformer with the windows and positional embeddings of the checkpoint.

    The embedding of a window is the mean of the class token and the distillation token. As in pretraining, a shorter
    window is padded and the padding is not masked.
    """

    front_end = "etude.audio.kaldi.ASTFront"
    prefixes = ("audio_spectrogram_transformer.",)
    renames = (
        (r"^encoder\.layer\.", "layers."), (r"\.attention\.attention\.query\.", ".attention.q_proj."),
        (r"\.attention\.attention\.key\.", ".attention.k_proj."),
        (r"\.attention\.attention\.value\.", ".attention.v_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."), (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    )  # fmt: skip
    ignored = ("classifier.",)

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__(network, config)
        own, extractor = self.network.config, config["extractor"]
        self.bins, self.window = own.num_mel_bins, own.max_length
        self.rows, self.columns = self.network.embeddings.get_shape(own)
        self.stride = own.time_stride
        normalised = extractor.get("do_normalize", True)  # zeros are appended before this normalisation
        self.padding = -extractor.get("mean", -4.2677393) / (2 * extractor.get("std", 4.5689974)) if normalised else 0.0

    @property
    def norm(self) -> nn.Module | None:
        """Norm of the last tokens."""
        return self.network.layernorm

    def input_modules(self) -> list[nn.Module]:
        """Return the patch embedding with positions and tokens."""
        return [self.network.embeddings]

    def count(self, sizes: Tensor) -> Tensor:
        """Return the number of columns of patches that begin before the end of a window."""
        return (-(-sizes // self.stride)).clamp(max=self.columns)

    def embed(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Compute the tokens of windows, padded as by the feature extractor."""
        return self.network.embeddings(torch.where(valid(sizes, x.shape[1])[..., None], x, self.padding))

    def over_time(self, states: Tensor, counts: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return the mean over the patches of each column."""
        return states[:, 2:].unflatten(1, (self.rows, self.columns)).mean(1), counts

    def pool(self, states: Tensor, counts: Tensor) -> Tensor:
        """Return the mean of the class token and the distillation token."""
        return states[:, :2].mean(1)


class WhisperEncoder(Encoder):
    """Encoder of Whisper. The embedding of a window is the mean of its states, without those of the padding."""

    front_end = "etude.audio.checkpoint_fronts.WhisperFront"
    prefixes = ("model.", "encoder.")
    ignored = ("model.decoder.", "decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__(network, config)
        own = self.network.config
        self.bins, self.window = own.num_mel_bins, 2 * own.max_source_positions

    def input_modules(self) -> list[nn.Module]:
        """Return the convolutions and the positions."""
        return [self.network.conv1, self.network.conv2, self.network.embed_positions]

    def count(self, sizes: Tensor) -> Tensor:
        """Return the number of states, half the number of frames."""
        return (sizes + 1) // 2

    def embed(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Compute the input embedding of frames, followed by silence and limited to 80 dB below the loudest value."""
        silence = -1.5  # of the smallest power, 1e-10
        x = torch.where(valid(sizes, x.shape[1])[..., None], x, silence)
        x = torch.maximum(x, x.amax((1, 2), keepdim=True) - 2.0)
        net = self.network
        states = F.gelu(net.conv2(F.gelu(net.conv1(x.transpose(1, 2))))).transpose(1, 2)
        return states + net.embed_positions(torch.arange(states.shape[1], device=x.device))


class ClapEncoder(Encoder):
    """Audio tower of CLAP, a Swin transformer. The embedding of a window is the output before the projection.

    A checkpoint with feature fusion uses it only for clips that are longer than a window, which are divided here.
    """

    front_end = "etude.audio.checkpoint_fronts.ClapFront"
    prefixes = ("clap.", "audio_model.")
    ignored = ("text_model.", "text_projection.", "audio_projection.", "logit_scale",
               "audio_encoder.patch_embed.fusion_model.", "audio_encoder.patch_embed.mel_conv2d.")  # fmt: skip

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__(network, config)
        extractor, net = config["extractor"], self.network.audio_encoder
        samples = extractor.get("max_length_s", 10) * extractor.get("sampling_rate", 48000)
        self.window = samples // extractor.get("hop_length", 480) + 1
        self.bins, self.dim = self.network.config.num_mel_bins, net.num_features
        self.grids = net.input_resolutions  # before each block

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Stages of the Swin transformer."""
        return self.network.audio_encoder.layers

    @property
    def norm(self) -> nn.Module | None:
        """Norm of the last patches."""
        return self.network.audio_encoder.norm

    def input_modules(self) -> list[nn.Module]:
        """Return the norm of the bins and the patch embedding."""
        return [self.network.audio_encoder.batch_norm, self.network.audio_encoder.patch_embed]

    def count(self, sizes: Tensor) -> Tensor:
        """Return the number of times of the last states, because a shorter window is repeated."""
        return torch.full_like(sizes, self.network.audio_encoder.freq_ratio * self.grids[-1][1])

    def embed(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Compute the patches of windows; a shorter window, such as a crop, is repeated."""
        net = self.network.audio_encoder
        index = torch.arange(x.shape[1], device=x.device) % sizes[:, None]
        x = x.gather(1, index[..., None].expand_as(x))[:, None]
        return net.patch_embed(net.reshape_mel2img(net.batch_norm(x.transpose(1, 3)).transpose(1, 3)), [])

    def run(self, index: int, states: Tensor, counts: Tensor) -> Tensor:
        """Run a stage with its patch merging."""
        return self.blocks[index](states, self.grids[index])[0]

    def over_time(self, states: Tensor, counts: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return the mean over the patches of each time. In the image, consecutive parts of a window are stacked."""
        parts = self.network.audio_encoder.freq_ratio
        height, width = self.grids[min(layer, len(self.grids) - 1)]
        values = states.unflatten(1, (parts, height // parts, width)).mean(2).flatten(1, 2)
        return values, torch.full_like(counts, values.shape[1])

    def pool(self, states: Tensor, counts: Tensor) -> Tensor:
        """Return the mean of all patches."""
        return states.mean(1)


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the states of a layer whose output has further values in some networks."""
    return output[0] if isinstance(output, tuple) else output


def _by_length(function: Callable[[Tensor], Tensor], x: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Apply a function from (n, T, ...) to (n, S', D) to the windows of each length together.

    The windows (N, T, ...) have lengths `sizes` (N,). The outputs are padded to `count` states (N, S, D).
    """
    lengths = sizes.tolist()
    order, outputs = [], []
    for size in sorted(set(lengths)):
        rows = [row for row, length in enumerate(lengths) if length == size]
        states = function(x[rows, :size] if len(rows) < len(x) else x[:, :size])
        order += rows
        outputs.append(F.pad(states, (0, 0, 0, count - states.shape[1])))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)[sorted(range(len(order)), key=order.__getitem__)]
