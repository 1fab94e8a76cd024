"""Frames and audio excerpts of clips for pages, and selection of clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.decode import decode, stream
from etude.audio.descriptors import track_beats
from etude.audio.frontend import FrontEnd
from etude.data.audio_files import read_sound
from etude.data.collection import Collection
from etude.errors import UserError
from etude.files.atomic import replacing, write_bytes

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack


SYNCS = ("none", "beat")
NOT_IN_PACK = "The pack contains only frames by {sync}, and its source files are not available."
SYNC_NAMES = {"none": "hop", "beat": "beat"}


@dataclass
class ClipView:
    """Frames of a clip for a page.

    Args:
        frames: Available frames (T, F) float32 by their synchronisation, `none` or `beat`.
        reasons: Reasons why the other frames are missing, by synchronisation.
        beats: Times of the beats (K,) in seconds. None if they are unknown.
        seconds: Length of the clip in seconds, if it is known.
    """

    frames: dict[str, np.ndarray]
    reasons: dict[str, str]
    beats: np.ndarray | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ClipFile:
    """File of a clip and its collection, which defines how the file is read."""

    path: Path
    collection: Collection

    def locate(self, front: FrontEnd) -> Path:
        """Return the path of the file for a front end."""
        locate = self.collection.locate
        return locate(self.path, front) if locate else self.path

    @property
    def is_audio(self) -> bool:
        """Whether the file contains audio and not frames."""
        return self.collection.reader is read_sound


def clip_files(source: Any) -> dict[str, ClipFile]:
    """Return the file of each clip by id. A pack that was opened from its folder has no files."""
    if isinstance(source, Collection):
        table = source.table
        return {str(clip): ClipFile(Path(path), source) for clip, path in zip(table["id"], table["path"], strict=True)}
    files: dict[str, ClipFile] = {}
    for name, member in getattr(source, "members", {}).items():
        prefix = "" if source.shared_ids else f"{name}/"
        files = {prefix + clip: file for clip, file in clip_files(member).items()} | files
    return files


def load_view(clip: str, row: int, pack: Pack, front: FrontEnd, files: dict[str, ClipFile]) -> ClipView:
    """Load the frames of a clip, and its beats if there is an audio file.

    Args:
        clip: Id of the clip.
        row: Row of the clip in the pack.
        pack: Pack that is read if there is no file.
        front: Front end of the pack. Frames by hop and by beat differ only in its setting `sync`.
        files: Files by id, as returned by `clip_files`.
    """
    if clip not in files:
        packed = {front.sync: np.asarray(pack.clip(row), dtype=np.float32)}
        reason = NOT_IN_PACK.format(sync=SYNC_NAMES[front.sync])
        return ClipView(packed, {sync: reason for sync in SYNCS if sync not in packed})
    frames, reasons, file = {}, {}, files[clip]
    for sync in SYNCS:
        try:
            variant = replace(front, sync=sync)
            frames[sync] = file.collection.reader(file.locate(variant), variant, 0.0)
        except (ValueError, NotImplementedError) as error:  # the file is missing, or the front end has no beats
            reasons[sync] = str(error) or "This front end cannot compute these frames."
    seconds = len(frames["none"]) / front.frames_per_second if "none" in frames else None
    beats = _beat_times(file, front) if file.is_audio and frames else None
    return ClipView(frames, reasons, beats, seconds)


def named_clips(value: str, index: pd.DataFrame, skipped: dict[str, str], key: str = "--clips") -> list[int]:
    """Return the rows of the clips in the value of an option.

    Args:
        value: Ids separated by commas. A single id may contain a comma.
        index: Table of the pack, with `id`.
        skipped: Reasons why clips were skipped, by id.
        key: Name of the option.

    Raises:
        UserError: A clip is not in the pack. The message contains similar ids.
    """
    rows = {str(clip): row for row, clip in enumerate(index["id"])}
    ids = [value] if value in rows else list(dict.fromkeys(item.strip() for item in value.split(",") if item.strip()))
    if not ids:
        raise UserError(f"{key}: contains no clip id; list ids separated by commas, or omit {key}")
    for clip in ids:
        if clip in skipped:
            raise UserError(f"{key} {clip}: this clip was skipped: {skipped[clip]}")
        if clip not in rows:
            raise UserError(f"{key} {clip}: there is no such clip; {_suggest_ids(clip, rows)}")
    return [rows[clip] for clip in ids]


def random_clips(index: pd.DataFrame, targets: dict[str, dict[str, Any]], count: int, seed: int) -> list[int]:
    """Return random rows, with one clip of each class before a second clip of any class.

    Args:
        index: Table of the pack.
        targets: Descriptions of the targets. The first label defines the classes.
        count: Number of rows. The result is shorter if there are fewer clips.
        seed: Seed of the selection.
    """
    order = np.random.default_rng(seed).permutation(len(index))
    name = next((name for name, spec in targets.items() if spec["kind"] == "label"), None)
    column = None if name is None else index[name].astype(object)
    classes: Sequence[Any] = [""] * len(index) if column is None else list(column.where(column.notna(), None))
    class_counts: dict[Any, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for row in order:
        class_name = classes[row]
        # clips without a label come after all others
        rank = class_counts.get(class_name, 0) + (len(index) if class_name is None else 0)
        ranked.append((rank, len(ranked), int(row)))
        class_counts[class_name] = class_counts.get(class_name, 0) + 1
    return [row for _, _, row in sorted(ranked)[:count]]


def _beat_times(file: ClipFile, front: FrontEnd) -> np.ndarray:
    """Return the times of the beats of an audio file (K,), in seconds."""
    return track_beats(decode(file.locate(front), front.rate), front) / front.frames_per_second


def _suggest_ids(clip: str, ids: Iterable[str]) -> str:
    """Return a clause with ids that contain an unknown id or are similar to it. Without such ids, use examples."""
    all_ids = list(ids)
    containing = [other for other in all_ids if clip.lower() in other.lower()]
    similar = get_close_matches(clip, all_ids, n=3, cutoff=0.5) or containing[:3]
    return f"similar ids: {', '.join(similar)}" if similar else f"examples of ids: {', '.join(all_ids[:3])}"


EXCERPT_SECONDS, EXCERPT_RATE = 15, 22050  # of an encoded excerpt
BLOCK = 1 << 16  # samples per call of the encoder
COPIED = 128_000  # bytes; a smaller OGG or MP3 is copied unchanged
SUFFIXES = {("OGG", "VORBIS"): ".ogg", ("MP3", "MPEG_LAYER_III"): ".mp3"}


def write_excerpt(path: Path, stem: Path, longest: int = EXCERPT_SECONDS, copied: int = COPIED) -> dict[str, Any]:
    """Write the beginning of an audio file as a small audio file.

    A small Ogg Vorbis or MP3 file is copied. Other files are encoded as mono Ogg Vorbis at 22,050 Hz.

    Args:
        path: An audio file.
        stem: Path of the result without its suffix.
        longest: Maximum length of the excerpt, in seconds.
        copied: Maximum size of a file that is copied, in bytes.

    Returns:
        `audio`, the name of the file; `excerpt_seconds` and `seconds`, the lengths of the excerpt and of the audio
        file; `encoded`, whether the excerpt was encoded.

    Raises:
        DecodeError: The file is missing or cannot be decoded.
    """
    import soundfile

    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        info = None  # the file is missing, or requires ffmpeg
    suffix = SUFFIXES.get((info.format, info.subtype)) if info else None
    if info and suffix and info.duration <= longest and path.stat().st_size <= copied:
        write_bytes(stem.with_suffix(suffix), path.read_bytes())
        seconds = info.duration
        return {"audio": f"{stem.name}{suffix}", "excerpt_seconds": seconds, "seconds": seconds, "encoded": False}
    # libsndfile estimates the length of an MP3
    audio, seconds = _beginning(path, longest, info.duration if info and info.format != "MP3" else None)
    encoding: dict[str, Any] = {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.7}
    with (
        replacing(stem.with_suffix(".ogg")) as draft,
        soundfile.SoundFile(draft, "w", EXCERPT_RATE, 1, **encoding) as file,
    ):
        for start in range(0, len(audio), BLOCK):  # the encoder allocates a complete block on its stack
            file.write(audio[start : start + BLOCK])
    return {
        "audio": f"{stem.name}.ogg",
        "excerpt_seconds": len(audio) / EXCERPT_RATE,
        "seconds": seconds,
        "encoded": True,
    }


def _beginning(path: Path, longest: int, seconds: float | None) -> tuple[np.ndarray, float]:
    """Return the first seconds of a file as mono samples (N,), float32, and the length of the file in seconds.

    Args:
        path: The file.
        longest: Maximum length of the result, in seconds.
        seconds: Length of the file. None means that it is unknown, and the complete file is decoded.
    """
    kept: list[np.ndarray] = []
    count, limit = 0, longest * EXCERPT_RATE
    with closing(stream(path, EXCERPT_RATE)) as blocks:
        for block in blocks:
            if count < limit:
                kept.append(block[: limit - count])
            count += len(block)
            if seconds is not None and count >= limit:
                break
        else:
            seconds = count / EXCERPT_RATE
    assert seconds is not None
    return np.concatenate(kept), max(seconds, min(count, limit) / EXCERPT_RATE)
