"""Benchmark of the front end against librosa and against the Fourier transform alone, on 30 s of music."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.data.readers import read_sound
from etude.data.sources.demo import collection

SECONDS, RATE, ROUNDS = 30, 22050, 9


def benchmark_audio() -> list[Section]:
    """Measure the time to compute the frames of one clip in one thread."""
    import librosa
    import soundfile
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"][::60]][:3]  # ten seconds each
    audio = np.concatenate([decode(path, RATE) for path in paths])[: SECONDS * RATE]
    samples, window = torch.from_numpy(audio), torch.hann_window(2048)
    front, front_with_tuning = LogMelChroma(), LogMelChroma(tuning=None)
    beat_front, report_front = LogMelChroma(sync="beat"), LogMelChroma(sync="beat", chroma="cqt", tuning=None)

    def librosa_with_tuning(samples: np.ndarray = audio) -> tuple[np.ndarray, np.ndarray]:
        mel = librosa.feature.melspectrogram(y=samples, sr=RATE)
        return librosa.power_to_db(mel, ref=np.max), librosa.feature.chroma_stft(y=samples, sr=RATE)

    def librosa_fixed_tuning() -> tuple[np.ndarray, np.ndarray]:
        power = np.abs(librosa.stft(audio)) ** 2
        mel = librosa.power_to_db(librosa.feature.melspectrogram(S=power, sr=RATE), ref=np.max)
        return mel, librosa.feature.chroma_stft(S=power, sr=RATE, tuning=0.0)

    def librosa_beats() -> np.ndarray:
        beats = librosa.beat.beat_track(y=librosa.effects.hpss(audio)[1], sr=RATE)[1].tolist()
        mel = librosa.util.sync(librosa.feature.melspectrogram(y=audio, sr=RATE), beats, aggregate=np.median)
        chroma = librosa.util.sync(librosa.feature.chroma_cqt(y=audio, sr=RATE), beats, aggregate=np.median)
        return np.concatenate([librosa.power_to_db(mel, ref=np.max), chroma])

    reference = "librosa, mel + chroma_stft (tuning estimated)"
    functions: dict[str, Callable[[], object]] = {
        reference: librosa_with_tuning,
        "librosa, one transform, tuning 0": librosa_fixed_tuning,
        "etude, tuning estimated": lambda: frames(audio, front_with_tuning),
        "etude, tuning 0": lambda: frames(audio, front),
        "torch.stft alone": lambda: torch.stft(samples, 2048, 512, window=window, return_complex=True),
    }
    times = time_rounds(functions, ROUNDS)
    section = Section("Frames of a 30 s clip at 22050 Hz, n_fft 2048, hop 512, one thread", "ms")
    section.rows = [(name, 1e3 * times.median(name), times.ratio(reference, name)) for name in functions]
    mel, chroma = (component.T for component in librosa_fixed_tuning())
    x = frames(audio, front)
    mel_error, chroma_error = float(np.abs(x[:, :128] - mel).max()), float(np.abs(x[:, 128:] - chroma).max())
    section.requirements = [
        Requirement("duration: librosa mel + chroma_stft / etude", times.ratio(reference, "etude, tuning 0"), 5),
        Requirement("duration: etude / torch.stft alone", times.ratio("etude, tuning 0", "torch.stft alone"), 3, False),
        Requirement("largest difference of mel from librosa", mel_error, 1e-3, False, " dB"),
        Requirement("largest difference of chroma from librosa", chroma_error, 1e-5, False, ""),
    ]

    reference = "librosa: HPSS, beats, mel, chroma_cqt (the student report)"
    functions = {
        reference: librosa_beats,
        "etude, chroma cqt": lambda: frames(audio, report_front),
        "etude, chroma stft": lambda: frames(audio, beat_front),
    }
    times = time_rounds(functions, 3)
    beats = Section("Beat-synchronous frames of the same clip", "ms")
    beats.rows = [(name, 1e3 * times.median(name), times.ratio(reference, name)) for name in functions]
    beat_error = float(np.abs(frames(audio, report_front).T - librosa_beats()).max())
    beats.requirements = [
        Requirement("duration: student report / etude", times.ratio(reference, "etude, chroma cqt"), 2),
        Requirement("largest difference from the student report", beat_error, 1e-3, False, ""),
    ]

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp3"
        soundfile.write(path, librosa.resample(audio, orig_sr=RATE, target_sr=44100), 44100, format="MP3")
        reference = "librosa.load + librosa mel + chroma_stft"
        functions = {
            reference: lambda: librosa_with_tuning(librosa.load(path, sr=RATE)[0]),
            "etude": lambda: read_sound(path, front),
            "etude, decoding alone": lambda: decode(path, RATE),
        }
        times = time_rounds(functions, ROUNDS)
    files = Section("From an MP3 file of 30 s, 44.1 kHz mono, to frames", "ms")
    files.rows = [(name, 1e3 * times.median(name), times.ratio(reference, name)) for name in functions]
    files.requirements = [
        Requirement("duration: librosa.load + librosa features / etude", times.ratio(reference, "etude"), 1.5)
    ]
    return [section, beats, files]
