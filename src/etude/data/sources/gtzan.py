"""GTZAN (Tzanetakis & Cook, 2002, "Musical genre classification of audio signals"), ten genres of 100 clips.

The folder has the layout of genres.tar.gz, or of a copy in wav format: `blues/blues.00000.wav` or
`blues/blues.00000.au`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from etude.data.audio_files import SkippedItem
from etude.data.collection import Collection, expand_path, label_target, log_skipped_items
from etude.errors import DataError

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
CLIPS = 100  # clips of each genre
BROKEN = "jazz.00054"  # not decodable in the common copy in wav format; skipped in every copy, so that counts agree
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


def collection(path: str, filtered: bool = True) -> Collection:
    """Return the clips of GTZAN with their genre.

    Args:
        path: The folder that contains `blues`, `classical`, ..., with .wav or .au files.
        filtered: Use only the clips of the official, fault-filtered split (929 of its 930 clips). False uses all clips,
            without a split.

    Returns:
        The collection. Artists are unknown, so `group` is missing. The row of a missing file is kept, and the file
        is skipped when frames are read.

    Raises:
        DataError: The folder has none of the clips.
    """
    import pandas as pd

    home = expand_path(path)
    splits = read_split()
    all_clips = [f"{genre}.{number:05d}" for genre in GENRES for number in range(CLIPS)]
    names = splits if filtered else all_clips
    ids = [clip for clip in names if clip != BROKEN]
    files = [_clip_path(home, clip) for clip in ids]
    if not any(file.is_file() for file in files):
        raise DataError(
            f"{home}: has no clip of GTZAN, such as blues/{ids[0]}.wav or .au; data.source.path must be the folder "
            f"that contains {', '.join(GENRES[:3])}, ..."
        )
    skipped_items = [SkippedItem(BROKEN, "file is broken in a widely used copy")]
    skipped_items += [
        SkippedItem(clip, "clip is not in the fault-filtered split") for clip in all_clips if clip not in names
    ]
    log_skipped_items(home, skipped_items)
    table = pd.DataFrame({"id": ids, "path": map(str, files), "group": None, "genre": [i.split(".")[0] for i in ids]})
    if filtered:
        table["split"] = [splits[clip] for clip in ids]
    title = f"GTZAN: {len(ids)} clips in ten genres" + (", fault-filtered" if filtered else "")
    return Collection(
        name="gtzan" if filtered else "gtzan_all",
        title=title,
        table=table,
        targets={"genre": label_target(GENRES)},
        card=CARD.format(title=title),
        note=NOTE,
        skipped_items=tuple(skipped_items),
        id_space="gtzan",
    ).check()


def read_split() -> dict[str, str]:
    """Return the official split of 930 clips, as train, val or test by clip."""
    with SPLIT.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row["split"] for row in csv.DictReader(file)}


def _clip_path(home: Path, clip: str) -> Path:
    """Return the path of the clip's .wav file, or of its .au file if there is no .wav file."""
    wav, au = (home / clip.split(".")[0] / f"{clip}{suffix}" for suffix in (".wav", ".au"))
    return au if au.is_file() and not wav.is_file() else wav
