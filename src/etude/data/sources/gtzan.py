"""GTZAN (Tzanetakis & Cook, 2002, "Musical genre classification of audio signals"), ten genres of 100 clips.

The folder has the layout of genres.tar.gz, `blues/blues.00000.au`, also of a copy in another format, such as
`blues/blues.00000.wav` or `blues/blues.00000.ogg`. It may also be a folder that contains `genres` or
`genres_original`, as in the copy at Kaggle.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from etude.data.audio_files import SkippedItem
from etude.data.collection import Collection, label_target, log_skipped_items
from etude.data.partition import SPLITS
from etude.errors import DataError
from etude.files.safe_read import expand_path

log = logging.getLogger(__name__)
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
CLIPS = 100  # clips of each genre
BROKEN = "jazz.00054"  # not decodable in the common copy in wav format; skipped in every copy, so that counts agree
FORMATS = (".wav", ".au", ".flac", ".ogg", ".mp3")  # suffixes, the first of which that exists is read
HOMES = ("", "genres", "genres_original", "Data/genres_original")  # folder of the genres in that of a copy
# The lists of Kereliuk et al. (2015), 443 clips for training, 197 for validation and 290 for test, as in
# torchaudio, from github.com/jordipons/sklearn-audio-transfer-learning. BROKEN is a training clip.
SPLIT = Path(__file__).with_name("gtzan_split.csv")
NOTE = (
    "The artists of these clips are unknown. Only the official split of GTZAN, which was made by hand, separates them. "
    "With any other split the test set has artists of the training set."
)
CARD = """# {title}

By G. Tzanetakis and P. Cook ("Musical genre classification of audio signals", IEEE Transactions on Speech and Audio
Processing 10(5), 2002): 1,000 clips of 30 seconds, mono at 22,050 Hz, 100 in each of ten genres. Artists and titles are
not named. No licence is stated; the recordings are third-party property.

- **Known faults** (Sturm, 2012): 50 exact copies, 22 clips of the same recording as others, 13 versions of the same
  piece as others, 106 wrong or disputed labels, and distortion. 35 clips of reggae are Bob Marley's, 24 of pop Britney
  Spears's. Sturm (2013) shows their effect on scores, and Sturm (2014) alternatives.
- **Split** (`filtered`): made by hand by Kereliuk, Sturm and Larsen (2015), 443 clips for training, 197 for
  validation, 290 for test. It excludes 70 faulty clips, but not every disputed label.
- **Skipped**: jazz.00054, whose file is broken in a widely used copy. 442 training clips remain.
- **Known limits**: about 300 artists, and no music after 2002.

References: B. L. Sturm (2012), "An analysis of the GTZAN music genre dataset", ACM MIRUM workshop. B. L. Sturm (2013),
"The GTZAN dataset: Its contents, its faults, their effects on evaluation, and its future use", arXiv:1306.1461.
B. L. Sturm (2014), "The state of the art ten years after a state of the art: Future research in music information
retrieval", Journal of New Music Research 43(2). C. Kereliuk, B. L. Sturm and J. Larsen (2015), "Deep learning and music
adversaries", IEEE Transactions on Multimedia 17(11).
"""


def collection(path: str, filtered: bool = True, subset: bool = False) -> Collection:
    """Return the clips of GTZAN with their genre.

    Args:
        path: The folder that contains `blues`, `classical`, ..., or a folder that contains it as `genres`,
            `genres_original` or `Data/genres_original`. The clips are .wav, .au, .flac, .ogg or .mp3 files.
        filtered: Use only the clips of the official, fault-filtered split (929 of its 930 clips). False uses all clips,
            without a split.
        subset: The folder is a subset of GTZAN: use only the clips whose files exist.

    Returns:
        The collection. Artists are unknown, so `group` is missing. Without `subset`, the row of a missing file is kept,
        and the file is skipped when frames are read.

    Raises:
        DataError: The folder has none of the clips.
    """
    import pandas as pd

    home = _find_home(expand_path(path))
    splits = read_split()
    all_clips = [f"{genre}.{number:05d}" for genre in GENRES for number in range(CLIPS)]
    files = {clip: _clip_path(home, clip) for clip in all_clips if clip != BROKEN}
    present = {clip for clip, file in files.items() if file.is_file()}
    if not present:
        raise DataError(
            f"{home}: has no clip of GTZAN, such as blues/{all_clips[0]}{FORMATS[0]} (or {', '.join(FORMATS[1:])}); "
            f"data.source.path must be the folder that contains {', '.join(GENRES[:3])}, ..."
        )
    names = splits if filtered else all_clips
    ids = [clip for clip in names if clip in (present if subset else files)]
    if not ids:
        raise DataError(
            f"{home}: none of its {len(present)} clips is in the fault-filtered split; set data.source.filtered=false "
            "data.split.kind=stratified"
        )
    skipped_items = [SkippedItem(BROKEN, "file is broken in a widely used copy")]
    skipped_items += [
        SkippedItem(clip, "clip is not in the fault-filtered split")
        for clip in all_clips
        if clip not in names and (clip in present or not subset)
    ]
    log_skipped_items(home, skipped_items)
    if filtered:
        _warn_of_untrained(home, [clip for clip in ids if clip in present], splits)
    table = pd.DataFrame({"id": ids, "path": [str(files[clip]) for clip in ids], "group": None})
    table["genre"] = [clip.split(".")[0] for clip in ids]
    if filtered:
        table["split"] = [splits[clip] for clip in ids]
    genres = [genre for genre in GENRES if genre in set(table["genre"])]
    count = "ten" if len(genres) == len(GENRES) else str(len(genres))
    title = f"GTZAN{', a subset' if subset else ''}: {len(ids)} clips in {count} genres" + (
        ", fault-filtered" if filtered else ""
    )
    return Collection(
        name=("gtzan" if filtered else "gtzan_all") + ("_subset" if subset else ""),
        title=title,
        table=table,
        targets={"genre": label_target(genres)},
        card=CARD.format(title=title),
        note=NOTE,
        skipped_items=tuple(skipped_items),
        id_space="gtzan",
        missing_note="" if present.issuperset(ids) else _missing_note(present, files),
    ).check()


def _missing_note(present: set[str], files: Mapping[str, Path]) -> str:
    """Return how a subset or an incomplete copy is used.

    A subset has equally many clips of its genres, or all of them. An interrupted copy has not.
    """
    counts = Counter(clip.split(".")[0] for clip in present)
    complete = Counter(clip.split(".")[0] for clip in files)
    numbers = f"the folder has {len(present)} of the {len(files)} clips of GTZAN"
    if len(set(counts.values())) == 1 or all(counts[genre] == complete[genre] for genre in counts):
        return f"{numbers}, a subset; add data.source.subset=true to use them"
    partial = ", ".join(f"{counts[genre]} of {genre}" for genre in GENRES if counts[genre] < complete[genre])
    return f"{numbers} ({partial}), an incomplete copy; copy it again, or add data.source.subset=true to use them"


def _warn_of_untrained(home: Path, clips: list[str], splits: dict[str, str]) -> None:
    """Warn of genres whose existing clips are not in the training split."""
    counts = {split: Counter(clip.split(".")[0] for clip in clips if splits[clip] == split) for split in SPLITS}
    if untrained := [
        genre for genre in GENRES if not counts["train"][genre] and any(c[genre] for c in counts.values())
    ]:
        sizes = ", ".join(f"{sum(counts[split].values())} {split}" for split in SPLITS)
        log.warning(
            "%s: the published split has no training clips of %s here (%s); data.source.filtered=false "
            "data.split.kind=stratified splits the clips at random, with artists in several splits",
            home, ", ".join(untrained), sizes,
        )  # fmt: skip


def read_split() -> dict[str, str]:
    """Return the official split of 930 clips, as train, val or test by clip."""
    with SPLIT.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["split"] for row in csv.DictReader(file)}


def _find_home(folder: Path) -> Path:
    """Return the folder of the genres, which is the folder of a copy or a known folder inside it."""
    homes = [folder / name for name in HOMES]
    return next((home for home in homes if any((home / genre).is_dir() for genre in GENRES)), folder)


def _clip_path(home: Path, clip: str) -> Path:
    """Return the path of the clip's file in the first of the formats that exists, or of its .wav file."""
    stem = home / clip.split(".")[0] / clip
    files = [stem.with_name(f"{clip}{suffix}") for suffix in FORMATS]
    return next((file for file in files if file.is_file()), files[0])
