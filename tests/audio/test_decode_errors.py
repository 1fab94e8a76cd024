"""Tests of the errors for files that cannot be decoded completely."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.audio.encoding import encode_with_ffmpeg, needs_ffmpeg, write_audio

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.data.sources.demo import HOME


def write_nothing(path: Path) -> None:
    """Write no file."""


def create_folder(path: Path) -> None:
    path.mkdir()


def write_text(path: Path) -> None:
    path.write_text("This was meant to be music.\n" * 100)


def write_empty_file(path: Path) -> None:
    path.touch()


def write_no_samples(path: Path) -> None:
    write_audio(path, np.zeros(0, np.float32))


def write_nan(path: Path) -> None:
    write_audio(path, np.array([0.0, np.nan, 0.0], np.float32), subtype="FLOAT")


def write_infinity(path: Path) -> None:
    write_audio(path, np.array([[0.0, np.inf]] * 3, np.float32), subtype="FLOAT")


def short_clip() -> np.ndarray:
    return decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)[: 4 * 22050]


def truncated_to(share: float) -> Callable[[Path], None]:
    """Return a function that writes the first bytes of a file, as after an interrupted download."""

    def write_truncated(path: Path) -> None:
        write_audio(path, short_clip())
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write_truncated


def write_header_only(path: Path) -> None:
    write_audio(path, short_clip())
    path.write_bytes(path.read_bytes()[:44])


def with_sample_rate(rate: int) -> Callable[[Path], None]:
    """Return a function that writes a WAV file whose header states the sample rate."""

    def write_with_rate(path: Path) -> None:
        write_audio(path, short_clip())
        content = path.read_bytes()
        path.write_bytes(content[:24] + rate.to_bytes(4, "little") + content[28:])

    return write_with_rate


def write_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def write_annex_pointer(path: Path) -> None:
    path.write_text("/annex/objects/SHA256E-s12345--4d7a.flac\n")


def write_html(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html>\n<html><title>404</title></html>\n")


def write_zeros(path: Path) -> None:
    path.write_bytes(bytes(5000))


def write_huge_samples(path: Path) -> None:
    write_audio(path, np.full(1000, 1e30, np.float32), subtype="FLOAT")


def write_single_sample(path: Path) -> None:
    write_audio(path, np.full(1, 0.5, np.float32), 96000)


@pytest.mark.parametrize(
    ("broken", "name", "message"),
    [
        (write_nothing, "a.wav", "there is no such file"),
        (create_folder, "a.wav", "there is no such file"),
        (write_text, "a.mp3", "cannot be decoded"),
        (write_text, "a.wav", "cannot be decoded"),
        (write_empty_file, "a.mp3", "is empty, 0 bytes"),
        (write_empty_file, "a.wav", "is empty, 0 bytes"),
        (write_no_samples, "a.wav", "contains no samples"),
        (write_header_only, "a.wav", "contains no samples"),
        (write_nan, "a.wav", "NaN or infinite"),
        (write_infinity, "a.wav", "NaN or infinite"),
        (truncated_to(0.5), "a.mp3", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated_to(0.8), "a.mp3", "is truncated, only 3.2 s of 4.0 s are present"),
        (truncated_to(0.5), "a.flac", "is broken ("),
        (truncated_to(0.99), "a.flac", "is broken ("),
        (truncated_to(0.5), "a.wav", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated_to(0.5), "a.aiff", "is truncated, only 2.0 s of 4.0 s are present"),
        (truncated_to(0.02), "a.ogg", "is truncated: its last page is incomplete"),
        (truncated_to(0.5), "a.ogg", "is truncated: its last page is incomplete"),
        (with_sample_rate(8), "a.wav", "has a sample rate of 8 Hz; rates from 1,000 to 768,000 Hz are supported"),
        (with_sample_rate(2_000_000_000), "a.wav", "has a sample rate of 2,000,000,000 Hz"),
        (
            write_lfs_pointer,
            "a.wav",
            "is a Git LFS pointer and not the audio file itself; run git lfs pull to download it",
        ),
        (write_annex_pointer, "a.flac", "is a git-annex pointer and not the audio file itself"),
        (write_html, "a.wav", "is an HTML page and not an audio file"),
        (write_html, "a.mp3", "is an HTML page and not an audio file"),
        (write_zeros, "a.mp3", "begins with zeros instead of a header"),
        (write_huge_samples, "a.wav", "contains samples of 1e+30, but full scale is 1"),
        (write_single_sample, "a.wav", "contains no samples at 22050 Hz: it has 1"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_error_names_the_broken_file_and_the_reason(broken, name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    broken(path)
    with pytest.raises(DecodeError) as error:
        decode(path, 22050)
    error_message = str(error.value)
    assert error_message.startswith(f"{path}: ")
    assert message in error_message
    assert "\n" not in error_message
    assert "does not exist" not in error_message  # libsndfile's misleading message for a file that is not an MP3


def test_mp3_without_its_last_packet_is_decoded(tmp_path: Path) -> None:
    """Decode a file that is incomplete as many old files are."""
    path = tmp_path / "a.mp3"
    truncated_to(0.98)(path)
    assert len(decode(path, 22050)) == pytest.approx(4 * 22050, rel=0.05)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.wma"])
def test_truncated_file_that_ffmpeg_can_decode_raises(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    path = encode_with_ffmpeg(tmp_path / name, clip, 22050, *(("-movflags", "+faststart") if name == "a.m4a" else ()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DecodeError, match=rf"^{path}: "):
        decode(path, 22050)


@pytest.mark.parametrize("name", ["a.m4a", "a.mp3"])
def test_error_states_that_ffmpeg_is_not_installed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DecodeError, match=r"cannot be decoded \(.*; ffmpeg is not installed\)$"):
        decode(tmp_path / name, 22050)
