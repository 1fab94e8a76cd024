"""Which sounds are taken: files that are not too large, not too long, and sound at all; else one sentence says why."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from etude.audio.formats.ffmpeg import CONTAINERS
from etude.results.text import duration

MB = 1 << 20  # bytes, as the browser's part of gradio counts them
PATIENCE = 20  # seconds that ffprobe gets to find a length
HEAD = 512  # bytes by which a text is known


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Args:
        megabytes: The largest file, in MB.
        seconds: The longest sound, in s.
    """

    megabytes: float
    seconds: float

    @property
    def words(self) -> str:
        """Both, for the page."""
        return f"up to {self.megabytes:g} MB and {duration(self.seconds).removesuffix(' 00 s')}"

    def refuse(self, path: Path) -> str:
        """Why a file is not taken, before it is decoded; "" where it may be."""
        try:
            size = path.stat().st_size
        except OSError:
            return "This sound is no longer here; drop it once more."
        if not size:
            return "This file is empty, 0 bytes."
        if size > self.megabytes * MB:
            return f"This file has {size / MB:.1f} MB; this page takes {self.words}."
        if is_text(path):
            return "This file is a text, and no sound."
        return self.long(seconds_of(path) or 0.0)

    def long(self, seconds: float) -> str:
        """Why a sound is too long; "" where it is not."""
        if seconds <= self.seconds:
            return ""
        return f"This sound is {duration(seconds)} long; this page takes {self.words}."


def is_text(path: Path) -> bool:
    """Whether a file begins as a text: among these are playlists, by which a decoder would open other files."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    try:
        words = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3:  # else a character was cut in two
            return False
        words = head[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in words)


def seconds_of(path: Path) -> float | None:
    """How long a sound says it is, in s, without decoding it: a small file may hold days of silence.

    Returns:
        Its length; None where nothing that is installed can tell.
    """
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, RuntimeError):
        pass
    if shutil.which("ffprobe") is None:
        return None
    command = ["ffprobe", "-v", "error", "-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    try:
        asked = subprocess.run(
            [*command, "-show_entries", "format=duration", "-of", "json", f"file:{path}"],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        return float(json.loads(asked.stdout)["format"]["duration"])
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return None
