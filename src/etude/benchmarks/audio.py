"""Benchmarks of audio files: the front end against librosa, and the prediction and embedding of many files.

The front end is also compared with the Fourier transform alone, on 30 s of music. A minimal loop of predictions spends
most of its time in the decoder and the front end. Two processes on two cores halve this time, and batches reduce the
time of the network. Therefore a factor of little more than two is possible. A loop that calls `predict` for each file
also builds a table for each file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.benchmarks.loading import run_etude
from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.config import instantiate
from etude.config.compose import conf_dir
from etude.data.audio_files import read_sound
from etude.data.sources.demo import collection
from etude.inference import engine
from etude.inference.embed import EmbedOptions, embed_files
from etude.inference.model import MAX_CPU_FRAMES, Model, Pretrained
from etude.inference.tables import predict_tables
from etude.training.network import build_network

SECONDS, RATE, ROUNDS = 30, 22050, 9
REPEATS, BATCH, PREDICT_ROUNDS = 10, 32, 3  # repeats of the demo clips; loops predict them once
CLIP_SECONDS, EMBED_ROUNDS, EMBED_REPEATS = 10, 3, 10  # length of a demo clip; copies of each, a minute in one thread
ENCODER = Pretrained("efficientat", ("backbone.weights=mn04_as",))


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


def benchmark_predict() -> list[Section]:
    """Measure the time to predict a list of 10 s clips, from the start of the processes to the last output row.

    Each process has one thread.
    """
    import torch

    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"]]
    with TemporaryDirectory() as folder:
        return _time_prediction(_write_checkpoint(Path(folder), "backbone=lstm"), paths)


def benchmark_embed() -> list[Section]:
    """Measure the time to embed clips of 10 s with one thread, against its parts, and the time of the command.

    The stores are empty. The time of a command includes the start of Python and of the worker processes.
    """
    import torch

    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"]]
    with TemporaryDirectory() as folder:
        (music := Path(folder) / "music").mkdir()
        copies = _write_copies(paths, EMBED_REPEATS, music)
        return [_time_embedding(copies[: len(paths)]), _time_embed_commands(music)]


def _write_copies(paths: list[Path], count: int, folder: Path) -> list[Path]:
    """Write each file several times as FLAC. One sample of each copy is different, and therefore its hash."""
    import soundfile

    copies = [folder / f"{repeat}-{i}.flac" for repeat in range(count) for i in range(len(paths))]
    for i, path in enumerate(paths):
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        for repeat in range(count):
            samples[repeat] ^= 1
            soundfile.write(copies[repeat * len(paths) + i], samples, rate)
    return copies


def _write_checkpoint(folder: Path, backbone: str) -> Path:
    """Write a checkpoint with random weights, which do not change the speed, and return its path."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", overrides=[backbone, "task=joint"])
    config: Any = {
        key: OmegaConf.to_container(composed[key], resolve=True)
        for key in ("backbone", "readout", "head", "task", "weighting", "augment", "optim", "feature")
    }
    feature = instantiate.make(config["feature"])
    n_frames = round(CLIP_SECONDS * feature.front.frames_per_second) + 1
    recipe = {
        "config": config, "targets": collection().targets, "bins": feature.bins,
        "columns": [feature.columns.start, feature.columns.stop], "front": feature.front.to_dict(),
        "evaluation": {"frames": n_frames, "longest": n_frames},
    }  # fmt: skip
    path = folder / "network.ckpt"
    torch.save({"state_dict": build_network(recipe).state_dict(), "etude": recipe}, path)
    return path


def _time_prediction(checkpoint: Path, paths: list[Path]) -> list[Section]:
    """Measure the time to predict files with a checkpoint, and compare the predicted values."""
    from multiprocessing import forkserver

    import torch

    model = Model(checkpoint, "cpu")
    network, front, view = model.network, model.front, slice(*model.network.recipe["columns"])
    energy: dict[str, list[float]] = {}

    def predict_single_files() -> None:
        energy[single_calls] = [float(predict_tables(model, path).files["energy.pred"][0]) for path in paths]

    def predict_in_loop() -> None:
        energy[loop] = []
        with torch.no_grad():
            for path in paths:
                x = torch.from_numpy(front.frames(decode(path, front.rate))[:, view])[None]
                _, out = network(x, torch.tensor([x.shape[1]]))
                energy[loop].append(float(network.task.predict(out)["energy"]))

    def predict_all_files() -> None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # each round includes the server's start
        index = list(model.columns.targets).index("energy") - len(model.columns.targets)  # scalars are the last
        results = engine.predict(model, paths * REPEATS, model.plan(), BATCH)
        energy[all_files] = [result.values[index] for result in results if result.values]

    single_calls, loop, all_files = "predict, a file per call", "minimal loop over files", "predict, all files"
    functions: dict[str, Callable[[], object]] = {
        single_calls: predict_single_files,
        loop: predict_in_loop,
        all_files: predict_all_files,
    }
    times = time_rounds(functions, PREDICT_ROUNDS)
    error = float(np.abs(np.subtract(energy[loop], energy[all_files][: len(paths)])).max())
    count = {single_calls: len(paths), loop: len(paths), all_files: REPEATS * len(paths)}

    def speed_ratio(slow: str, fast: str) -> float:
        return times.ratio(slow, fast) * count[fast] / count[slow]

    section = Section(f"Predictions of an LSTM for {count[all_files]:,} files of 10 s; one thread", "files/s")
    section.rows = [(name, count[name] / times.median(name), speed_ratio(single_calls, name)) for name in functions]
    section.requirements = [
        Requirement("speed: all files / a file per call", speed_ratio(single_calls, all_files), 3),
        Requirement("speed: all files / minimal loop", speed_ratio(loop, all_files), 1.5),
        Requirement("largest difference of energy", error, 1e-3, False, ""),
    ]
    return [section]


def _time_embedding(paths: list[Path]) -> Section:
    """Measure the time to embed files with one thread, and of decoding, front end and network alone."""
    import torch

    model = Model(ENCODER, "cpu")
    network, front, view = model.network, model.front, slice(*model.network.recipe["columns"])
    audio = [decode(path, front.rate) for path in paths]
    frames_of_clips = [torch.from_numpy(front.frames(samples)[:, view]) for samples in audio]
    values: dict[str, np.ndarray] = {}
    step = max(1, MAX_CPU_FRAMES // max(len(clip) for clip in frames_of_clips))  # the fastest, and that of `Model`

    def embed_batches() -> None:
        embeddings: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(paths), step):
                clips = frames_of_clips[start : start + step]
                lengths = torch.tensor([len(clip) for clip in clips])
                x = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
                embeddings.append(network.backbone(network.standardiser(x, lengths), lengths).numpy())
        values[forward] = np.concatenate(embeddings)

    def embed() -> None:
        with TemporaryDirectory() as packs:
            options = EmbedOptions(paths, batch_size=BATCH, workers=1, packs=Path(packs))
            values[one] = embed_files(model, options).values

    decoding, front_end, forward = "decoding alone", "front end alone", "network alone"
    one = "embed, one thread"
    parts: dict[str, Callable[[], object]] = {
        decoding: lambda: [decode(path, front.rate) for path in paths],
        front_end: lambda: [front.frames(samples) for samples in audio],
        forward: embed_batches,
    }
    times = time_rounds(parts | {one: embed}, EMBED_ROUNDS)
    overhead = float(np.median(times.seconds[:, -1] / times.seconds[:, :-1].sum(1)))
    error = float(np.abs(values[one] - values[forward]).max() / np.abs(values[forward]).max())
    section = Section(f"Embeddings of EfficientAT for {len(paths):,} files of {CLIP_SECONDS} s, one thread", "files/s")
    section.rows = [(name, len(paths) / times.median(name), times.ratio(one, name)) for name in times.names]
    section.requirements = [
        Requirement("duration: one thread / sum of the parts alone", overhead, 1.15, False),
        Requirement("largest relative difference of a value from the network alone", error, 1e-2, False, ""),
    ]
    return section


def _time_embed_commands(music: Path) -> Section:
    """Measure the time of `etude embed` for a folder with one process and with two workers."""
    values: dict[str, np.ndarray] = {}

    def embed(name: str, workers: int) -> None:
        with TemporaryDirectory() as folder:
            encoder = ("--backbone", ENCODER.name, *ENCODER.overrides)
            run_etude(folder, "embed", *encoder, music, "--out", "embeddings.npz", "--workers", workers)
            values[name] = np.load(Path(folder) / "embeddings.npz")["embeddings"]

    one, two = "one process", "two workers"
    functions: dict[str, Callable[[], object]] = {one: lambda: embed(one, 1), two: lambda: embed(two, 2)}
    times = time_rounds(functions, EMBED_ROUNDS, warm_up=False)  # a minute each
    difference = float(np.abs(values[one] - values[two]).max() / np.abs(values[one]).max())
    count = len(values[one])
    section = Section(f"The command `etude embed` for {count:,} files of {CLIP_SECONDS} s", "files/s")
    section.rows = [(name, count / times.median(name), times.ratio(one, name)) for name in functions]
    section.requirements = [
        Requirement("speed: two workers / one process", times.ratio(one, two), 1.7),
        Requirement("largest relative difference between one process and two workers", difference, 1e-5, False, ""),
    ]
    return section
