"""Fixtures of a small collection with duplicates, and of its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.reports.dataset.dataset_page import Explored, explore

from etude.audio.decode import decode
from etude.data.sources import demo

HOSTILE_ID = "<script>alert('clip')</script>"
HOSTILE_GROUP = "<i>Band & Söhne</i> $x$"
MERGED_CLASSES = "data.source.classes={genre: {loud: [metal, electronic], calm: [orchestral]}}"
RATE, SECONDS = 22050, 4
SPLITS = ("train", "train", "val", "test")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of eight clips of different pieces, a copy of the third, a noisy copy of the fourth, and a broken file."""
    home = tmp_path_factory.mktemp("music")
    table = demo.collection().table
    table["piece"] = table["id"].str.rsplit("__", n=1).str[0]
    table = table.drop_duplicates("piece")
    counts = {"electronic": 3, "metal": 2, "orchestral": 3}
    table = pd.concat([rows.drop_duplicates("group").head(counts[genre]) for genre, rows in table.groupby("genre")])
    (home / "wavs" / "again").mkdir(parents=True)
    rows, signals = [], []
    for k, row in enumerate(table.to_dict("records")):
        signals.append(decode(Path(row["path"]), RATE)[: SECONDS * RATE])
        soundfile.write(home / "wavs" / f"{k}.wav", signals[-1], RATE)
        values = {key: row[key] for key in ("id", "group", "genre", "valence", "energy")}
        rows.append({**values, "path": f"{k}.wav", "split": SPLITS[k % 4]})
    rows[0] |= {"id": HOSTILE_ID, "group": HOSTILE_GROUP}
    soundfile.write(home / "wavs" / "copy.wav", signals[2], RATE)
    rows.append(rows[2] | {"id": "copy", "path": "copy.wav", "split": "train"})
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(signals[3]))
    soundfile.write(home / "wavs" / "again" / "3.wav", signals[3] + noise, RATE)
    rows.append(rows[3] | {"id": "noisy", "path": "again/3.wav", "split": "train", "valence": None})
    (home / "wavs" / "broken.wav").write_bytes(b"no sound")
    rows.append(rows[1] | {"id": "broken", "path": "broken.wav"})
    pd.DataFrame(rows).to_csv(home / "clips.csv", index=False)
    return home


@pytest.fixture(scope="session")
def source_options(home: Path) -> list[str]:
    """Options of the collection, with merged classes and the splits of its table."""
    return [
        "data=table",
        f"data.source.table={home / 'clips.csv'}",
        f"data.source.audio={home / 'wavs'}",
        MERGED_CLASSES,
        "data.split.kind=official",
    ]


@pytest.fixture(scope="session")
def explored(home: Path, source_options: list[str], compiled_librosa: None) -> Explored:
    """Page of the collection with the hostile and the noisy clip."""
    return explore(home, *source_options, f"--clips={HOSTILE_ID},noisy")


@pytest.fixture(scope="session")
def truth(home: Path) -> pd.DataFrame:
    """Rows of the clips that can be decoded, with merged classes."""
    table = pd.read_csv(home / "clips.csv")
    table = table[table["id"] != "broken"].reset_index(drop=True)
    return table.assign(genre=table["genre"].map({"metal": "loud", "electronic": "loud", "orchestral": "calm"}))
