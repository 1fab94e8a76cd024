"""Pretrained encoders by name, the identity of an encoder, and the embeddings of it that runs and commands share."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.decode import decoder_versions
from etude.audio.frontend import FrontEnd
from etude.config.compose import conf_dir, open_hydra
from etude.config.instantiate import make, plain_config, resolve
from etude.config.override_errors import format_errors, override_errors
from etude.config.stored import RECIPE_GROUPS, weights_name
from etude.embeddings.store import LIMIT, RecordStore
from etude.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from etude.backbones.base import Backbone


log = logging.getLogger(__name__)
MAX_SECONDS = 300.0  # length of the longest file that is one clip, if no window is set
PARTS = ("standardiser.", "backbone.", "readout.")  # of a network that determine its embedding
ALL_LAYERS = {"layers": "all", "pooling": "statistics", "combine": "concat"}  # of the output of `layer_statistics`
SEVERAL = "several values instead of one"


def encoder_recipe(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the recipe of a pretrained backbone without a task, as in the checkpoint of a run.

    A file of up to MAX_SECONDS is one clip, as if the training clips had this length.

    Args:
        name: Option of the config group `backbone`.
        overrides: Overrides of the config, such as `backbone.weights=weights.pt`. Without this key, a backbone whose
            config has random weights has the first of its embedded weights.

    Returns:
        Recipe for `training.network.build_network`. The weights are not loaded yet.

    Raises:
        UserError: There is no such backbone, an override is invalid, or the backbone has no pretrained weights.
    """
    names = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
    if name not in names:
        raise UserError(f"--backbone {name}: there is no such backbone; choose one of {', '.join(names)}")
    arguments = [f"backbone={name}", *overrides]
    with open_hydra() as composer:
        try:
            composed = composer.compose(arguments)
        except Exception as error:
            if messages := override_errors(arguments, error=error, sweep_only=SEVERAL):
                raise UserError(format_errors(messages)) from None
            raise
        from omegaconf import OmegaConf, open_dict

        with open_dict(composed):
            composed.pop("hydra", None)
            composed["choices"] = {}  # these values need a running job of Hydra
            composed["name"] = name
        OmegaConf.set_readonly(composed, False)
        config = plain_config(composed)
    if "weights" not in config["backbone"]:
        raise UserError(f"--backbone {name}: has no pretrained weights; train it, and give the run instead")
    if config["backbone"]["weights"] is None:
        network = resolve(config["backbone"]["_target_"])
        embedded = [*network.embedded_weights]
        if not embedded or any(text.startswith("backbone.weights=") for text in overrides):
            choices = " or ".join([*(f"backbone.weights={weights}" for weights in embedded), "backbone.weights=FILE"])
            if network.published_weights:
                choices += f", or the name of published weights: {', '.join(network.published_weights)}"
            raise UserError(f"--backbone {name}: its weights are random; use {choices}")
        config["backbone"]["weights"] = embedded[0]
    feature = make(config["feature"])
    config["task"] = {**config["task"], "targets": {}}
    frames = round(MAX_SECONDS * feature.front.frames_per_second)
    return {
        "config": {key: config.get(key) for key in RECIPE_GROUPS},
        "targets": {},
        "bins": feature.bins,
        "columns": [feature.columns.start, feature.columns.stop],
        "front": feature.front.to_dict(),
        "evaluation": {"frames": frames, "longest": frames},
    }


def check_encoder(name: str, backbone: Backbone, front: Mapping[str, Any]) -> None:
    """Check that a backbone with pretrained weights embeds frames without statistics of training data.

    Args:
        name: Name of the backbone.
        backbone: The backbone.
        front: Plain values of the front end.

    Raises:
        UserError: The weights were trained on standardised frames, or on those of another front end.
    """
    if not backbone.skips_standardisation:
        raise UserError(
            f"--backbone {name}: these weights expect frames that are standardised with a training split; train a run, "
            "and give it instead"
        )
    if (required := backbone.required_front_end) not in (None, front["_target_"]):
        raise UserError(f"--backbone {name}: its weights were trained on the frames of {required}; select its feature")


def encoder_identity(
    front: FrontEnd,
    columns: Sequence[int],
    backbone: Backbone,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    settings: Mapping[str, Any],
    readout: Mapping[str, Any] | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Return everything that determines an embedding except the frames, as plain values.

    Args:
        front: Front end of the frames.
        columns: First column of the network's input, and the column after the last.
        backbone: Backbone of the network.
        tensors: Tensors of the network by name. Only those of PARTS matter.
        device: Device of the network.
        settings: Config of the backbone. The location of its weights does not matter, because their values do.
        readout: Settings of the read-out, if the network has one.
        precision: Precision of the Trainer.
    """
    from torch import get_float32_matmul_precision

    return {
        "front": front.to_dict() | {"revision": front.revision},
        "columns": [*columns],
        "standardised": not backbone.skips_standardisation,
        "backbone": f"{type(backbone).__module__}.{type(backbone).__qualname__}",
        "version": backbone.version,
        "settings": {key: value for key, value in settings.items() if key not in backbone.weights_keys},
        "readout": dict(readout) if readout else None,
        "weights": weights_hash({name: value for name, value in tensors.items() if name.startswith(PARTS)}),
        "device": device.type,
        "precision": precision,
        "matmul": get_float32_matmul_precision() if device.type != "cpu" else "highest",  # TF32 in training
        "libraries": {name: version(name) for name in backbone.libraries},
    }


def encoder_name(backbone: str, settings: Mapping[str, Any], source: str | None = None) -> str:
    """Return the name of an encoder for listings, its backbone and its initial weights, such as `musicnn msd`.

    Args:
        backbone: Option of the config group `backbone`.
        settings: Config of the backbone.
        source: The run, checkpoint or export from which its weights were copied, or None.
    """
    path = PurePath(source) if source else None
    weights = (
        weights_name(settings) if path is None else path.parent.parent.name if path.suffix == ".ckpt" else path.name
    )
    return f"{backbone} {weights}" if weights else backbone


def windows_identity(front: FrontEnd, windows: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that determines the windows of an audio file except its content, as plain values.

    Args:
        front: Front end of the frames.
        windows: Values of the window plan.
    """
    libraries = {name: version(name) for name in ("librosa", "numpy", "torch")}
    frames = front.to_dict() | {"revision": front.revision}
    return {"front": frames, "windows": dict(windows), "decoder": decoder_versions(), "libraries": libraries}


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


class EmbeddingStore(RecordStore):
    """Store of the embeddings of one encoder.

    Args:
        root: Folder of all stores.
        model: Name of the encoder for listings.
        identity: Everything that determines an embedding except the frames, see `encoder_identity`.
        limit: Maximum size of all stores together, in bytes.
    """

    def __init__(self, root: Path, model: str, identity: Mapping[str, Any], limit: int = LIMIT) -> None:
        super().__init__(root, {"kind": "embeddings", "model": model, "identity": dict(identity)}, limit)

    def get(self, keys: Sequence[str]) -> list[np.ndarray | None]:
        """Return the array of each key, float32, or None if it is missing or damaged.

        Args:
            keys: Hashes of frames, such as those of `data.pack.frames_hash`.
        """
        return [None if value is None else _decode_array(value) for value in self.read([*map(bytes.fromhex, keys)])]

    def put(self, keys: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """Store an array of any shape for each key, as float32."""
        self.write({bytes.fromhex(key): _encode_array(array) for key, array in zip(keys, arrays, strict=True)})


class SharedEmbeddings:
    """Embeddings of clips in the stores that runs and commands share.

    Runs whose read-outs differ share one pass of the network as well, in a store of the statistics of all layers. An
    embedding that is selected from them is copied into the store of its read-out, where other commands find it.

    Args:
        root: Folder of all stores.
        contents: Hash of the frames of each clip.
        model: Name of the encoder for listings.
        identity: Function that returns the identity of the encoder on a device, see `encoder_identity`.
        select: Function that returns embeddings (B, P) from the output of `readouts.layer_statistics`. None shares
            embeddings of one read-out alone.
    """

    def __init__(
        self,
        root: Path,
        contents: Sequence[str],
        model: str,
        identity: Callable[[torch.device], Mapping[str, Any]],
        select: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.root, self.contents, self.model, self.identity, self.select = root, contents, model, identity, select
        self._own: EmbeddingStore | None = None  # of the read-out
        self._layers: EmbeddingStore | None = None  # of the statistics of all layers, with `select`
        self._disabled = False

    def read(self, rows: Sequence[int], device: torch.device) -> dict[int, Tensor]:
        """Return the embeddings (1, P) of the clips that are in the stores, by their row."""
        if self._disabled:
            return {}
        try:
            if self._own is None:
                self._open(self.identity(device))
            z = self._get(self._own, rows)
            if self.select is not None and (missing := [row for row in rows if row not in z]):
                selected = {row: self.select(value) for row, value in self._get(self._layers, missing).items()}
                self._put(self._own, selected)
                z |= selected
        except (OSError, UserError) as error:
            self._disable(error)
            return {}
        return z

    def write(self, embeddings: Mapping[int, Tensor], statistics: Mapping[int, Tensor] | None = None) -> None:
        """Store the embeddings (1, P) of clips by their row, and the statistics of all layers (1, S)."""
        try:
            self._put(self._own, embeddings)
            self._put(self._layers, statistics or {})
        except (OSError, UserError) as error:
            self._disable(error)

    def close(self) -> None:
        """Release the stores for other processes."""
        for store in (self._own, self._layers):
            if store is not None:
                store.close()
        self._own = self._layers = None

    def _open(self, identity: Mapping[str, Any]) -> None:
        """Open the stores of an encoder."""
        self._own = EmbeddingStore(self.root, self.model, identity)
        if self.select is not None:
            self._layers = EmbeddingStore(self.root, self.model, {**identity, "readout": ALL_LAYERS})

    def _get(self, store: EmbeddingStore | None, rows: Sequence[int]) -> dict[int, Tensor]:
        """Return the tensors (1, ...) of the rows that a store contains. A store that is not open contains none."""
        import torch

        if store is None:
            return {}
        stored = store.get([self.contents[row] for row in rows])
        return {row: torch.from_numpy(a)[None] for row, a in zip(rows, stored, strict=True) if a is not None}

    def _put(self, store: EmbeddingStore | None, values: Mapping[int, Tensor]) -> None:
        """Add tensors (1, ...) by their row to an open store, unless they are in another precision."""
        if store is not None and values and all(str(value.dtype) == "torch.float32" for value in values.values()):
            arrays = [value[0].cpu().numpy() for value in values.values()]
            store.put([self.contents[row] for row in values], arrays)

    def _disable(self, error: Exception) -> None:
        """Use the stores no longer, because a run needs none."""
        log.warning("embeddings are not shared with other runs and commands: %s", error)
        self._disabled = True
        with suppress(OSError, UserError):
            self.close()
        self._own = self._layers = None


def _encode_array(array: np.ndarray) -> bytes:
    """Return an array as bytes: number of axes, shape, and float32 values."""
    array = np.asarray(array, "<f4")
    return struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


def _decode_array(data: bytes) -> np.ndarray:
    """Return the array of `_encode_array`."""
    shape = struct.unpack_from(f"<{data[0]}I", data, 1)
    return np.frombuffer(data, "<f4", offset=1 + 4 * data[0]).reshape(shape).copy()
