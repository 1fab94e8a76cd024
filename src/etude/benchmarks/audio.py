"""Sound to frames against librosa and against the transform alone, on 30 s of real music."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.benchmarks.timing import Bar, Section, rounds
from etude.data.readers import read_sound
from etude.data.sources.demo import collection

SECONDS, RATE, ROUNDS = 30, 22050, 9


def run() -> list[Section]:
    """Time one clip, one thread."""
    import librosa
    import soundfile
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"][::60]][:3]  # ten seconds each
    audio = np.concatenate([decode(path, RATE) for path in paths])[: SECONDS * RATE]
    samples, window = torch.from_numpy(audio), torch.hann_window(2048)
    front, estimated = LogMelChroma(), LogMelChroma(tuning=None)
    beat, lab = LogMelChroma(sync="beat"), LogMelChroma(sync="beat", chroma="cqt", tuning=None)

    def peer(sound: np.ndarray = audio) -> tuple[np.ndarray, np.ndarray]:
        mel = librosa.feature.melspectrogram(y=sound, sr=RATE)
        return librosa.power_to_db(mel, ref=np.max), librosa.feature.chroma_stft(y=sound, sr=RATE)

    def fixed() -> tuple[np.ndarray, np.ndarray]:
        power = np.abs(librosa.stft(audio)) ** 2
        mel = librosa.power_to_db(librosa.feature.melspectrogram(S=power, sr=RATE), ref=np.max)
        return mel, librosa.feature.chroma_stft(S=power, sr=RATE, tuning=0.0)

    def lab_peer() -> np.ndarray:
        beats = librosa.beat.beat_track(y=librosa.effects.hpss(audio)[1], sr=RATE)[1].tolist()
        mel = librosa.util.sync(librosa.feature.melspectrogram(y=audio, sr=RATE), beats, aggregate=np.median)
        chroma = librosa.util.sync(librosa.feature.chroma_cqt(y=audio, sr=RATE), beats, aggregate=np.median)
        return np.concatenate([librosa.power_to_db(mel, ref=np.max), chroma])

    first = "librosa, mel + chroma_stft (tuning estimated)"
    contenders: dict[str, Callable[[], object]] = {
        first: peer,
        "librosa, one transform, tuning 0": fixed,
        "ours, tuning estimated": lambda: frames(audio, estimated),
        "ours, tuning 0": lambda: frames(audio, front),
        "torch.stft alone": lambda: torch.stft(samples, 2048, 512, window=window, return_complex=True),
    }
    times = rounds(contenders, ROUNDS)
    section = Section("Frames of a 30 s clip at 22050 Hz, n_fft 2048, hop 512, one thread", "ms")
    section.rows = [(name, 1e3 * times.median(name), times.ratio(first, name)) for name in contenders]
    mel, chroma = (side.T for side in fixed())
    ours = frames(audio, front)
    section.bars = [
        Bar("librosa mel + chroma_stft against ours", times.ratio(first, "ours, tuning 0"), 5),
        Bar("ours against torch.stft alone", times.ratio("ours, tuning 0", "torch.stft alone"), 3, at_least=False),
        Bar("largest difference of mel from librosa", float(np.abs(ours[:, :128] - mel).max()), 1e-3, False, " dB"),
        Bar("largest difference of chroma from librosa", float(np.abs(ours[:, 128:] - chroma).max()), 1e-5, False, ""),
    ]

    slow = "librosa: HPSS, beats, mel, chroma_cqt (the source work's)"
    contenders = {
        slow: lab_peer,
        "ours, chroma cqt": lambda: frames(audio, lab),
        "ours, chroma stft": lambda: frames(audio, beat),
    }
    times = rounds(contenders, 3)
    beats = Section("Beat-synchronous frames of the same clip", "ms")
    beats.rows = [(name, 1e3 * times.median(name), times.ratio(slow, name)) for name in contenders]
    beats.bars = [
        Bar("the source work's pipeline against ours", times.ratio(slow, "ours, chroma cqt"), 2),
        Bar("largest difference from it", float(np.abs(frames(audio, lab).T - lab_peer()).max()), 1e-3, False, ""),
    ]

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp3"
        soundfile.write(path, librosa.resample(audio, orig_sr=RATE, target_sr=44100), 44100, format="MP3")
        loaded = "librosa.load + librosa mel + chroma_stft"
        contenders = {
            loaded: lambda: peer(librosa.load(path, sr=RATE)[0]),
            "ours": lambda: read_sound(path, front),
            "ours, decoding alone": lambda: decode(path, RATE),
        }
        times = rounds(contenders, ROUNDS)
    files = Section("From an MP3 of 30 s, 44.1 kHz mono, to frames", "ms")
    files.rows = [(name, 1e3 * times.median(name), times.ratio(loaded, name)) for name in contenders]
    files.bars = [Bar("librosa.load + librosa features against ours", times.ratio(loaded, "ours"), 1.5)]
    return [section, beats, files]
