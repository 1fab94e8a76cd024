"""Files of published audio checkpoints, also from the Hugging Face hub, and front ends of their feature extractors.

The frames equal those of the feature extractors of the library transformers, which is not imported here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from etude.audio import filterbanks
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import UserError
from etude.files.journal import file_hash
from etude.files.published import CARD, HUB, HUB_MODELS, HubModel, announce_download, weights_folder

if TYPE_CHECKING:
    from torch import Tensor

    from etude.audio.frontend_modules import FrontEndModule


FLOOR = 1e-10  # smallest mel power
PADDINGS = ("repeatpad", "repeat", "pad")


@dataclass(frozen=True)
class WaveformFront(FrontEnd):
    """Front end of raw waveforms, whose frames are single samples.

    Packs store samples as float16. Samples of up to 1/16 of full scale keep the precision of 16 bits, and the error of
    a louder sample is at most 1/4096 of its value (-72 dB).

    Args:
        rate: Sample rate, in Hz.
        n_fft, hop_length, n_mels: 1.
        n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
    """

    rate: int = 16000
    n_fft: int = 1
    hop_length: int = 1
    n_mels: int = 1
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Zeros (F,), because samples are not in dB."""
        return np.zeros(self.bins, np.float32)

    def displayed(self) -> FrontEnd:
        """Return the default front end of spectrograms."""
        return LogMelChroma(rate=self.rate)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Return samples (N,) as frames (N, 1), float32."""
        return np.asarray(audio, np.float32)[:, None]

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end."""
        from etude.audio.frontend_modules import WaveformModule  # imports torch

        return WaveformModule()


@dataclass(frozen=True)
class WhisperFront(FrontEnd):
    """Log-mel front end of Whisper (Radford et al., 2022), (log10 m + 4) / 4 of mel power m.

    The dynamic range of 80 dB below the loudest value is not limited here, because the loudest value is that of an
    input of the network, which is at most 30 s of a clip. The network limits it.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
        chunk: Length of the network's input, in samples. A shorter clip is continued by silence, so that frames after
            its end that contain its last samples are kept.
    """

    n_fft: int = 400
    hop_length: int = 160
    n_mels: int = 80
    rate: int = 16000
    chunk: int = 480_000
    fmin: ClassVar[float] = 0.0
    fmax: ClassVar[float] = 8000.0
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Change of each bin (F,) per dB of level."""
        return np.full(self.bins, 0.025, np.float32)

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on Slaney's scale."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.fmax, htk=False)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F), float32, from samples (N,).

        T is N // hop_length if the clip is not shorter than `chunk`. Otherwise it is the number of frames that contain
        samples of the clip.
        """
        import torch
        import torch.nn.functional as F

        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        count = -(-(len(x) + self.n_fft // 2) // self.hop_length)
        if len(x) < self.chunk:
            x = F.pad(x, (0, min(self.chunk - len(x), 2 * self.n_fft)))
        power = _power(x, self.n_fft, self.hop_length)[:-1][:count]
        bank = filterbanks.mel_filters(self.rate, self.n_fft, self.n_mels, self.fmin, self.fmax)
        mel = power @ torch.from_numpy(bank.T.copy())
        return mel.clamp_(min=FLOOR).log10_().add_(4.0).div_(4.0).numpy()


@dataclass(frozen=True)
class ClapFront(FrontEnd):
    """Log-mel front end of CLAP (Wu et al., 2022), in dB relative to full scale.

    A clip that is shorter than the input of the network is repeated and padded before the transform, so that it has as
    many frames as the input.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
        fmin: Lowest mel frequency, in Hz.
        fmax: Highest mel frequency, in Hz.
        chunk: Length of the network's input, in samples.
        padding: `repeatpad`, complete repetitions and then silence; `repeat`, repetitions; or `pad`, silence.
        htk: Mel filters of HTK with equal heights, or of Slaney with equal areas.

    Raises:
        UserError: `padding` is unknown.
    """

    rate: int = 48000
    n_fft: int = 1024
    hop_length: int = 480
    n_mels: int = 64
    fmin: float = 50.0
    fmax: float = 14000.0
    chunk: int = 480_000
    padding: str = "repeatpad"
    htk: bool = False
    unit: ClassVar[str] = "dB"
    supports_beats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding not in PADDINGS:
            raise UserError(f"feature.front.padding must be {', '.join(PADDINGS)}, got {self.padding!r}")

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.fmax, self.htk)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F), float32, from samples (N,), with T = 1 + max(N, chunk) // hop_length."""
        import torch

        if len(audio) < self.chunk:
            times = {"pad": 1, "repeat": self.chunk // len(audio) + 1}.get(self.padding, self.chunk // len(audio))
            audio = np.tile(audio, times)[: self.chunk]
            audio = np.pad(audio, (0, self.chunk - len(audio)))
        # in double precision as the feature extractor, because quiet bands are below the noise of single precision
        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float64))
        mel = _power(x, self.n_fft, self.hop_length) @ torch.from_numpy(_clap_filters(self))
        return mel.clamp_(min=FLOOR).log10_().mul_(10.0).float().numpy()


def _power(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """Return the power spectrum (T, 1 + n_fft / 2) of samples (N,), with centred Hann windows and reflection."""
    import torch

    window = torch.hann_window(n_fft, dtype=torch.float64).to(x.dtype)
    spectrum = torch.stft(x, n_fft, hop, window=window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).T


@lru_cache(maxsize=8)
def _clap_filters(front: ClapFront) -> np.ndarray:
    """Return the mel filters (1 + n_fft / 2, F) of CLAP, float64."""
    corners = filterbanks.mel_frequencies(front.n_mels + 2, front.fmin, front.fmax, front.htk)
    frequencies = np.linspace(0, front.rate // 2, 1 + front.n_fft // 2)
    ramps, widths = corners[:, None] - frequencies, np.diff(corners)[:, None]
    filters = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    if not front.htk:
        filters *= (2 / (corners[2:] - corners[:-2]))[:, None]
    return np.ascontiguousarray(filters.T)


def find_model_file(model: str, name: str) -> Path | None:
    """Return a file of a published model.

    Args:
        model: A folder, or the name of a repository of the Hugging Face hub, such as `m-a-p/MERT-v1-95M`. A repository
            is searched in the folder `ETUDE_WEIGHTS` (`MERT-v1-95M`), in the cache of the hub, and on the hub.
        name: Name of the file.

    Returns:
        Path of the file; None if the model has no such file.

    Raises:
        UserError: There is no such folder or repository, the hub cannot be reached, or the file differs from the
            published one.
    """
    is_repository = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model)
    own_folder = weights_folder()
    stored = [own_folder / model.partition("/")[2]] if own_folder and is_repository else []
    for folder in (Path(model).expanduser(), *stored):
        if folder.is_dir():
            return folder / name if (folder / name).is_file() else None
    if not is_repository:
        raise UserError(
            f"backbone.model={model}: there is no such folder; set the path of a folder or a repository of the Hugging "
            f"Face hub, such as {', '.join(HUB_MODELS)}"
        )
    return _find_hub_file(model, name)


def _find_hub_file(model: str, name: str) -> Path | None:
    """Return a file of a repository from the cache of the Hugging Face hub or from the hub, see `find_model_file`.

    A known model is downloaded at its known revision. An earlier copy in the cache is used at any revision.
    """
    try:
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"backbone.model={model}: is no folder, and a download requires huggingface-hub, which is not installed: "
            "pip install 'etude[hf]'"
        ) from error
    known = HUB_MODELS.get(model, HubModel(CARD))
    try:
        revision = known.revision
        if revision is not None and isinstance(try_to_load_from_cache(model, "config.json"), str):
            revision = None  # all files have the revision of this config
        cached = try_to_load_from_cache(model, name, revision=revision)
        if cached is _CACHED_NO_EXIST:
            return None
        if isinstance(cached, str):
            return Path(cached)
        if name == "config.json":  # the first file
            announce_download(f"backbone.model={model}", known.size, known.licence, f"{HUB}/{model}")
        path = Path(hf_hub_download(model, name, revision=revision))
    except Exception as error:  # any failure of the hub, the connection or the disk
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        folder = (weights_folder() or Path("$ETUDE_WEIGHTS")) / model.partition("/")[2]
        raise UserError(
            f"backbone.model={model}: is no folder, and {name} cannot be downloaded ({type(error).__name__}); check "
            f"the name, or download {HUB}/{model} on a machine with internet access into {folder}, or into another "
            "folder and set backbone.model=/path/to/folder"
        ) from error
    if revision is not None and name == known.file and known.sha256 is not None and file_hash(path) != known.sha256:
        raise UserError(f"{path}: differs from the published {name} of {model}; delete it to download it again")
    return path


def read_model_json(model: str, name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file of a published model, or None if it has no such file.

    Args:
        model: Same as in `find_model_file`.
        name: Name of the file.

    Raises:
        UserError: The file cannot be read, or contains no object.
    """
    path = find_model_file(model, name)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must contain a JSON object")
    return content
