"""Tests of files with wrong, missing or repeated headers, which are decoded completely or raise an error."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from etude.audio.decode import decode
from etude.audio.formats import DecodeError, TooLongError, mp3

RATE = 22050
Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Return two seconds of noise that no codec clips."""
    return np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    """Return a function that encodes samples as the bytes of a file."""

    def encoded(suffix: str, audio: np.ndarray, rate: int = RATE, **options: object) -> bytes:
        path = tmp_path / f"source{suffix}"
        soundfile.write(path, audio, rate, **options)
        return path.read_bytes()

    return encoded


def seconds(path: Path, content: bytes) -> float:
    """Return the decoded length of a file with this content, in seconds."""
    path.write_bytes(content)
    return len(decode(path, RATE)) / RATE


def with_sizes(wav: bytes, riff: int, data: int) -> bytes:
    """Return a WAV file with a header of 44 bytes, with other sizes."""
    return wav[:4] + struct.pack("<I", riff) + wav[8:40] + struct.pack("<I", data) + wav[44:]


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0x7FFFF024, 0x7FFFF000),  # sox into a pipe
        (0x80000024, 0x80000000),  # arecord
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0, 0),  # not written
        (36, 0),
        (0xFFFFFFFF, 0),
    ],
)
def test_wav_with_unknown_sizes_is_decoded_completely(
    riff: int, data: int, noise: np.ndarray, encode: Encode, tmp_path: Path
) -> None:
    wav = encode(".wav", noise)
    (tmp_path / "a.wav").write_bytes(with_sizes(wav, riff, data))
    np.testing.assert_array_equal(decode(tmp_path / "a.wav", RATE), decode(tmp_path / "source.wav", RATE))


def test_wav_without_samples_is_not_repaired(noise: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
    empty = with_sizes(encode(".wav", noise)[:44] + chunk, 36 + len(chunk), 0)
    with pytest.raises(DecodeError, match="contains no samples"):
        seconds(tmp_path / "a.wav", empty)


def test_flac_of_unknown_length_is_decoded_completely(noise: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    for channels in (1, 2):
        flac = bytearray(encode(".flac", np.stack([noise] * channels, 1)))
        flac[21:26] = bytes([flac[21] & 0xF0]) + bytes(4)
        (tmp_path / "a.flac").write_bytes(flac)
        np.testing.assert_array_equal(decode(tmp_path / "a.flac", RATE), decode(tmp_path / "source.flac", RATE))
        with pytest.raises(TooLongError):
            decode(tmp_path / "a.flac", RATE, 1.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.wav", {}, "1.0 s of 2.0 s are present"),
        ("a.wav", {"endian": "BIG"}, "1.0 s of 2.0 s are present"),
        ("a.rf64", {"format": "RF64"}, "1.0 s of 2.0 s are present"),
        ("a.w64", {"format": "W64"}, "1.0 s of 2.0 s are present"),
        ("a.au", {"format": "AU"}, "1.0 s of 2.0 s are present"),
        ("a.caf", {"format": "CAF"}, "is truncated, only 48 % of it is present"),  # libsndfile cannot open it
        ("a.ogg", {}, "its last page is incomplete"),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, "its last page is incomplete"),
    ],
)
def test_half_of_a_file_raises(
    name: str, options: dict[str, str], message: str, noise: np.ndarray, encode: Encode, tmp_path: Path
) -> None:
    rate = 48000 if name == "a.opus" else RATE
    content = encode(Path(name).suffix, noise, rate, **options)
    assert seconds(tmp_path / name, content) == pytest.approx(len(noise) / rate, abs=1e-3)
    with pytest.raises(DecodeError, match=message):
        seconds(tmp_path / name, content[: len(content) // 2])


def test_ogg_that_ends_between_two_pages_raises(noise: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    content = encode(".ogg", np.tile(noise, 3))
    with pytest.raises(DecodeError, match="its end-of-stream flag is missing"):
        seconds(tmp_path / "a.ogg", content[: content.rindex(b"OggS")])


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".ogg"])
def test_concatenated_files_are_decoded_completely(
    suffix: str, noise: np.ndarray, encode: Encode, tmp_path: Path
) -> None:
    first, second = encode(suffix, noise), encode(suffix, np.stack([noise, noise], 1)[:20000], 44100)
    assert seconds(tmp_path / f"a{suffix}", first + second) == pytest.approx(2 + 20000 / 44100, abs=2e-3)
    with pytest.raises(DecodeError, match=r"is truncated|is broken"):
        seconds(tmp_path / f"a{suffix}", first + second[: len(second) // 2])


def encode_mp3(encode: Encode, audio: np.ndarray, rate: int = RATE, mode: str = "VARIABLE") -> bytes:
    """Return an MP3, by default with a variable bit rate, that begins with a Xing or Info frame."""
    content = encode(".mp3", audio, rate, bitrate_mode=mode, compression_level=0.5)
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    return content


def without_xing(content: bytes) -> bytes:
    """Return an MP3 without its first frame, which contains no audio."""
    return content[mp3.LENGTHS[content[1] << 8 | content[2]] :]


def test_mp3_of_variable_bit_rate_without_a_count_is_decoded_completely(
    noise: np.ndarray, encode: Encode, tmp_path: Path
) -> None:
    # loud, then quiet, so that the first bit rate is not typical
    audio = np.concatenate([noise, 1e-3 * np.tile(noise, 2)])
    content = encode_mp3(encode, audio)
    path = tmp_path / "a.mp3"
    assert seconds(path, without_xing(content)) == pytest.approx(6, abs=0.15)
    path.write_bytes(without_xing(content))
    with soundfile.SoundFile(path) as file:
        assert len(file) < 0.8 * len(audio)  # libsndfile's estimate is too small


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (44100, 1), (RATE, 2), (44100, 2)])
def test_concatenated_mp3s_are_decoded_completely(
    tagged: bool, rate: int, channels: int, noise: np.ndarray, encode: Encode, tmp_path: Path
) -> None:
    first = encode_mp3(encode, noise)
    second = encode_mp3(encode, np.stack([noise] * channels, 1), rate, "CONSTANT")
    if not tagged:
        first, second = without_xing(first), without_xing(second)
    expected = 2 + 2 * RATE / rate
    assert seconds(tmp_path / "a.mp3", first + second) == pytest.approx(expected, abs=0.3)
    assert seconds(tmp_path / "a.mp3", first + without_xing(second)) == pytest.approx(expected, abs=0.3)


def test_tags_around_concatenated_mp3s_are_skipped(noise: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    content = without_xing(encode_mp3(encode, noise, mode="CONSTANT"))
    tag = b"ID3\x04\0\0\0\0\x20\0" + b"\xff\xfb" * 2048  # bytes that resemble frames
    assert seconds(tmp_path / "a.mp3", tag + content + tag + content + b"TAG" + bytes(125)) == pytest.approx(4, abs=0.3)
    assert seconds(tmp_path / "a.mp3", content + bytes(100_000)) == pytest.approx(2, abs=0.15)


def test_truncated_second_mp3_raises(noise: np.ndarray, encode: Encode, tmp_path: Path) -> None:
    content = encode_mp3(encode, noise)
    with pytest.raises(DecodeError, match=r"is truncated, only (0.9|1.0) s of 2.0 s are present"):
        seconds(tmp_path / "a.mp3", content + content[: len(content) // 2])


def fake_tools(folder: Path, audio: np.ndarray, probed: dict[str, object], code: int = 0) -> None:
    """Write an ffmpeg script that always prints these samples, and an ffprobe script that prints these fields."""
    header = b".snd" + b"".join(number.to_bytes(4, "big") for number in (28, 0xFFFFFFFF, 6, RATE, 2)) + b"note"
    stereo = np.stack([audio, 0.5 * audio], 1)
    (folder / "sound").write_bytes(header + stereo.astype(">f4").tobytes() if len(audio) else b"")
    (folder / "fields").write_text(json.dumps(probed))
    printed = "Duration: 01:00:00.00"  # of a comment
    for name, content in (("ffmpeg", "sound"), ("ffprobe", "fields")):
        script = f"#!/bin/sh\necho '{printed}' >&2\n/bin/cat '{folder / content}'\nexit {code}\n"
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


STREAM = {
    "streams": [{"duration": "2.000000"}],
    "format": {"duration": "3600.0", "format_name": "mov,mp4", "nb_streams": 2},
}


@pytest.mark.skipif(os.name != "posix", reason="the substitute for ffmpeg is a shell script")
@pytest.mark.parametrize(
    ("probed", "code", "message"),
    [
        (STREAM, 0, ""),
        ({}, 0, ""),
        ({"streams": [{}], "format": {"duration": "2.0", "format_name": "matroska,webm", "nb_streams": 1}}, 0, ""),
        ({"streams": [{"duration": "9.0"}], "format": {"format_name": "aac", "nb_streams": 1}}, 0, ""),  # an estimate
        ({"streams": [{"duration": "4.0"}]}, 0, "is truncated, only 2.0 s of 4.0 s are present"),
        ({"streams": [{}], "format": {"duration": "4.0", "format_name": "asf", "nb_streams": 1}}, 0, "is truncated"),
        (STREAM, 1, "is broken"),
    ],
)
def test_length_is_that_of_the_audio_stream(
    probed: dict[str, object],
    code: int,
    message: str,
    noise: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_tools(tmp_path, noise, probed, code)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    if message:
        with pytest.raises(DecodeError, match=message):
            decode(tmp_path / "a.m4a", RATE)
    else:
        np.testing.assert_allclose(decode(tmp_path / "a.m4a", RATE), 0.75 * noise, atol=1e-7)
        with pytest.raises(TooLongError):
            decode(tmp_path / "a.m4a", RATE, 1.0)


@pytest.mark.skipif(os.name != "posix", reason="the substitute for ffmpeg is a shell script")
def test_error_contains_the_message_of_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools(tmp_path, np.zeros(0, np.float32), {}, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    with pytest.raises(DecodeError, match=r"ffmpeg cannot read it either: Duration: 01:00:00.00\)$"):
        decode(tmp_path / "a.m4a", RATE)
