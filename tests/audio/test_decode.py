"""Tests of decoding files of all codecs, and of the errors for broken files."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from etude.audio.decode import decode, stream
from etude.audio.formats import DecodeError, TooLongError
from etude.audio.plausibility import SoundStatistics
from etude.data.sources.demo import HOME
from etude.demo.predictor import read_duration

RATES = (8000, 16000, 22050, 44100, 48000, 96000)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Return three seconds of a real clip, below full scale so that no codec clips it."""
    audio = decode(sorted((HOME / "clips" / "orchestral").iterdir())[0], 22050)[: 3 * 22050]
    return (0.8 * audio / np.abs(audio).max()).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 22050, subtype: str | None = None) -> Path:
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def encode(path: Path, audio: np.ndarray, rate: int, *options: str) -> Path:
    """Write a file by ffmpeg, in the codec of its suffix."""
    source = write(path.with_name("source.wav"), audio, rate)
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(source), *options, str(path)], check=True)
    return path


def relative_error(audio: np.ndarray, clip: np.ndarray) -> float:
    """Return the mean squared error relative to the power, over the common length."""
    both = min(len(audio), len(clip))
    return float(np.square(audio[:both] - clip[:both]).mean() / np.square(clip).mean())


def peak(audio: np.ndarray, rate: int) -> float:
    """Return the frequency of the strongest partial, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))))) * rate / len(audio)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-24),  # the resolution of float32
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_codecs_are_exact_to_a_quantisation_step(
    name: str, subtype: str, step: float, channels: int, clip: np.ndarray, tmp_path: Path
) -> None:
    signal = clip if channels == 1 else np.stack([clip, -0.5 * clip], axis=1)
    audio = decode(write(tmp_path / name, signal, subtype=subtype), 22050)
    assert audio.dtype == np.float32
    assert audio.shape == clip.shape
    expected = signal if channels == 1 else signal.mean(axis=1)
    np.testing.assert_allclose(audio, expected, atol=step or 1e-8, rtol=0)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_codecs_keep_length_timing_and_sound(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write(tmp_path / name, clip), 22050)
    assert audio.shape == clip.shape
    error = relative_error(audio, clip)
    assert error < 0.04
    assert relative_error(np.roll(audio, 20), clip) > 2 * error  # no delay


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "late"),
    [
        ("a.m4a", (), 0.05),
        ("a.opus", ("-ar", "48000"), 0.0),
        ("a.wma", (), 0.1),
        ("a.aac", (), 0.1),  # without a header that states the padding
        ("a.mp3", ("-b:a", "128k"), 0.0),
        ("a.flac", (), 0.0),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_written_by_ffmpeg_are_decoded(
    name: str, options: tuple[str, ...], late: float, channels: int, clip: np.ndarray, tmp_path: Path
) -> None:
    signal = clip if channels == 1 else np.stack([clip, 0.25 * clip], axis=1)
    audio = decode(encode(tmp_path / name, signal, 22050, *options), 22050)
    assert abs(len(audio) - len(clip)) <= late * 22050 + 2
    expected = clip if channels == 1 else 0.625 * clip
    room = int(late * 22050)
    padded = np.concatenate([np.zeros(room, np.float32), audio])
    assert min(relative_error(padded[lag:], expected) for lag in range(2 * room + 1)) < 0.05


def test_channels_are_averaged(clip: np.ndarray, tmp_path: Path) -> None:
    for channels in (2, 6):
        weights = np.linspace(-0.3, 1, channels)
        audio = decode(write(tmp_path / "a.wav", clip[:, None] * weights, subtype="FLOAT"), 22050)
        np.testing.assert_allclose(audio, weights.mean() * clip, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "native"),
    [
        *((name, rate) for name in ("a.wav", "a.flac", "a.ogg") for rate in RATES),
        *(("a.mp3", rate) for rate in RATES[:-1]),
        *(
            pytest.param(name, rate, marks=needs_ffmpeg)
            for name in ("a.m4a", "a.opus")
            for rate in (8000, 44100, 48000)
        ),
    ],
)
def test_tone_keeps_pitch_length_and_level_at_any_rate(name: str, native: int, channels: int, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(native) / native)
    signal = tone if channels == 1 else np.stack([tone, 0.5 * tone], axis=1)
    path = tmp_path / name
    if name in ("a.m4a", "a.opus"):
        encode(path, signal, native, *(("-ar", "48000") if name == "a.opus" else ()))
    else:
        write(path, signal, native)
    audio = decode(path, 22050)
    # AAC consists of packets of 1024 samples
    assert abs(len(audio) - 22050) <= (0.15 * 22050 if name == "a.m4a" else 2)
    middle = audio[5000:15000]
    assert peak(middle, 22050) == pytest.approx(1000, abs=2.3)
    level = 0.5 * (1 if channels == 1 else 0.75)
    assert np.sqrt(2 * np.square(middle).mean()) == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize(("native", "rate"), [(44100, 22050), (22050, 16000), (8000, 22050), (96000, 44100)])
def test_other_rates_are_resampled_by_soxr(native: int, rate: int, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write(tmp_path / "a.wav", clip, native, subtype="FLOAT"), rate)
    np.testing.assert_allclose(audio, soxr.resample(clip, native, rate), atol=1e-6)
    assert len(audio) == round(len(clip) * rate / native)


def test_resampled_tone_equals_tone_at_that_rate(tmp_path: Path) -> None:
    tone = {rate: 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate) for rate in (22050, 44100)}
    audio = decode(write(tmp_path / "a.wav", tone[44100], 44100, subtype="FLOAT"), 22050)
    np.testing.assert_allclose(audio[500:-500], tone[22050][500:-500], atol=1e-4)


def nothing(path: Path) -> None:
    """Write no file."""


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("This was meant to be music.\n" * 100)


def empty(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    write(path, np.zeros(0, np.float32))


def not_a_number(path: Path) -> None:
    write(path, np.array([0.0, np.nan, 0.0], np.float32), subtype="FLOAT")


def infinite(path: Path) -> None:
    write(path, np.array([[0.0, np.inf]] * 3, np.float32), subtype="FLOAT")


def music() -> np.ndarray:
    return decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)[: 4 * 22050]


def truncated(share: float) -> Callable[[Path], None]:
    """Return a writer of the first bytes of a file, as of an interrupted download."""

    def write_truncated(path: Path) -> None:
        write(path, music())
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write_truncated


def header_alone(path: Path) -> None:
    write(path, music())
    path.write_bytes(path.read_bytes()[:44])


def with_rate(rate: int) -> Callable[[Path], None]:
    """Return a writer of a WAV file whose header states the sample rate."""

    def write_with_rate(path: Path) -> None:
        write(path, music())
        content = path.read_bytes()
        path.write_bytes(content[:24] + rate.to_bytes(4, "little") + content[28:])

    return write_with_rate


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def annexed(path: Path) -> None:
    path.write_text("/annex/objects/SHA256E-s12345--4d7a.flac\n")


def html(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html>\n<html><title>404</title></html>\n")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(5000))


def huge(path: Path) -> None:
    write(path, np.full(1000, 1e30, np.float32), subtype="FLOAT")


def single_sample(path: Path) -> None:
    write(path, np.full(1, 0.5, np.float32), 96000)


@pytest.mark.parametrize(
    ("broken", "name", "message"),
    [
        (nothing, "a.wav", "there is no such file"),
        (folder, "a.wav", "there is no such file"),
        (text, "a.mp3", "cannot be decoded"),
        (text, "a.wav", "cannot be decoded"),
        (empty, "a.mp3", "is empty, 0 bytes"),
        (empty, "a.wav", "is empty, 0 bytes"),
        (no_samples, "a.wav", "contains no samples"),
        (header_alone, "a.wav", "contains no samples"),
        (not_a_number, "a.wav", "NaN or infinite"),
        (infinite, "a.wav", "NaN or infinite"),
        (truncated(0.5), "a.mp3", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated(0.8), "a.mp3", "is truncated, only 3.2 s of 4.0 s are present"),
        (truncated(0.5), "a.flac", "is broken ("),
        (truncated(0.99), "a.flac", "is broken ("),
        (truncated(0.5), "a.wav", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated(0.5), "a.aiff", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated(0.02), "a.ogg", "is truncated: its last page is incomplete"),
        (truncated(0.5), "a.ogg", "is truncated: its last page is incomplete"),
        (with_rate(8), "a.wav", "has a sample rate of 8 Hz; rates from 1,000 to 768,000 Hz are supported"),
        (with_rate(2_000_000_000), "a.wav", "has a sample rate of 2,000,000,000 Hz"),
        (pointer, "a.wav", "is a Git LFS pointer and not the sound itself; run git lfs pull to download it"),
        (annexed, "a.flac", "is a git-annex pointer and not the sound itself"),
        (html, "a.wav", "is an HTML page and not sound"),
        (html, "a.mp3", "is an HTML page and not sound"),
        (zeros, "a.mp3", "begins with zeros instead of a header"),
        (huge, "a.wav", "contains samples of 1e+30, where 1 is full scale"),
        (single_sample, "a.wav", "contains no samples at 22050 Hz: it has 1"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_error_names_the_broken_file_and_the_reason(broken, name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    broken(path)
    with pytest.raises(DecodeError) as error:
        decode(path, 22050)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text
    assert "does not exist" not in text  # libsndfile's misleading message for a file that is not an MP3


def test_mp3_without_its_last_packet_is_decoded(tmp_path: Path) -> None:
    """Many old files are incomplete like this."""
    path = tmp_path / "a.mp3"
    truncated(0.98)(path)
    assert len(decode(path, 22050)) == pytest.approx(4 * 22050, rel=0.05)


@needs_ffmpeg
def test_mp3_without_a_xing_header_is_decoded_completely(clip: np.ndarray, tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp3", clip, 22050, "-write_xing", "0", "-b:a", "64k")
    assert len(decode(path, 22050)) == pytest.approx(len(clip), abs=0.15 * 22050)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_blocks_equal_the_decoded_file(
    name: str, clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / name, np.stack([clip, 0.3 * clip], 1), 44100)
    complete = decode(path, 22050)
    monkeypatch.setattr("etude.audio.decode.BLOCK", 5001)
    blocks = list(stream(path, 22050))
    assert len(blocks) > 20
    np.testing.assert_array_equal(np.concatenate(blocks), complete)


def test_decoding_stops_at_the_maximum_length(
    clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(decode(write(tmp_path / "a.flac", clip), 22050, 3.0)) == len(clip)
    for suffix in ("flac", "ogg", "mp3"):
        path = write(tmp_path / f"a.{suffix}", clip)
        with pytest.raises(TooLongError, match=rf"^{path}: is too long \(3 s or more; at most 2 s are accepted\)"):
            decode(path, 22050, 2.0)
    monkeypatch.setattr("etude.audio.decode.BLOCK", 1000)
    monkeypatch.setattr(soundfile.SoundFile, "__len__", lambda file: 0)  # a header without the length
    statistics = SoundStatistics()
    with pytest.raises(TooLongError, match="is too long"):
        decode(path, 22050, 2.0, statistics)
    assert statistics.count <= 2 * 22050 + 1000


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.wma"])
def test_truncated_file_that_ffmpeg_can_decode_raises(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    path = encode(tmp_path / name, clip, 22050, *(("-movflags", "+faststart") if name == "a.m4a" else ()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DecodeError, match=rf"^{path}: "):
        decode(path, 22050)


PLAYLIST = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:10
#EXT-X-MEDIA-SEQUENCE:0
#EXTINF:10.0,
{url}
#EXT-X-ENDLIST
"""


@needs_ffmpeg
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.ts", "https://127.0.0.1:9/a.m4a"])
def test_playlist_opens_no_connection(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    path.write_text(PLAYLIST.format(url=url))
    with pytest.raises(DecodeError, match=rf"^{path}: cannot be decoded \(") as error:
        decode(path, 22050)
    # rejected by the options of ffmpeg, and not by a failed connection
    assert any(rule in str(error.value) for rule in ("not on whitelist 'file'", "Not detecting m3u8"))


@pytest.mark.parametrize("name", ["a.m4a", "a.mp3"])
def test_error_states_that_ffmpeg_is_not_installed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DecodeError, match=r"cannot be decoded \(.*; ffmpeg is not installed\)$"):
        decode(tmp_path / name, 22050)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_file_names_may_contain_any_bytes(clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"latin\xe9.wav")
    with path.open("wb") as file:
        soundfile.write(file, clip, 22050, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(decode(path, 22050), clip)


@needs_ffmpeg
def test_file_names_are_never_options_or_addresses(clip: np.ndarray, tmp_path: Path) -> None:
    """Colons, dashes and percent signs are special to ffmpeg."""
    good = encode(tmp_path / "a.m4a", clip, 22050)
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for name in ("-y.m4a", "http:x.m4a", "%03d.m4a", "a b'c\".m4a", "ö\u2028.m4a"):
            shutil.copy(good, tmp_path / name)
            assert len(decode(Path(name), 22050)) == pytest.approx(len(clip), abs=2500)
    finally:
        os.chdir(here)


def test_ffmpeg_opens_no_file_named_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Playlists and lists of segments name other files, independent of their first bytes."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)

    def start(command: list[str], **_: Any) -> None:
        commands.append(command)
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "list.m4a"
    path.write_bytes(b"ffconcat version 1.0\n#\xff\xfe\nfile private.wav\n")
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode(path, 16000)
    assert read_duration(path) is None
    for command in commands:
        options = dict(itertools.pairwise(command))
        assert options["-protocol_whitelist"] == "file"
        assert not {"hls", "concat", "dash", "imf", "sdp", "lavfi"} & set(options["-format_whitelist"].split(","))
        assert command.index("-format_whitelist") < command.index(f"file:{path}")
    assert [command[0] for command in commands] == ["ffmpeg", "ffprobe"]
