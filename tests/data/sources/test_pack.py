"""Tests of existing packs as collections."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from etude.audio.log_mel import LogMelChroma
from etude.data.collection import Collection, label_target, scalar_target
from etude.data.datamodule import MusicData, build_datamodule
from etude.data.pack import MANIFEST, PackOptions
from etude.data.pack_writer import write_pack
from etude.data.packing import prepare_pack
from etude.data.sources import pack as packs_of
from etude.errors import DataError

FRONT = LogMelChroma(n_mels=20)
COUNT = 12


@pytest.fixture
def source(tmp_path: Path) -> Collection:
    """Return a collection of twelve files of noise, one of them broken, with all descriptions."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "audio" / f"{i}.wav" for i in range(COUNT)]
    paths[0].parent.mkdir()
    for path in paths:
        soundfile.write(path, 0.1 * rng.standard_normal(30000), 22050)
    paths[4].write_text("no music")
    table = pd.DataFrame(
        {
            "id": [f"clip{i}" for i in range(COUNT)],
            "path": list(map(str, paths)),
            "group": [f"g{i % 6}" for i in range(COUNT)],
            "genre": ["x", "y", None] * 4,
            "energy": np.where(np.arange(COUNT) % 5, np.arange(COUNT) / 12, np.nan),
        }
    )
    return Collection(
        name="mine",
        title="Été",
        table=table,
        targets={"genre": label_target(["x", "y"], "a note"), "energy": scalar_target(0, 1)},
        card="# Card",
        note="A note.",
        extra={"licences": {"CC0": 12}},
    ).check()


@pytest.fixture
def folder(source: Collection, tmp_path: Path) -> Path:
    """Return the folder of the pack, moved after its audio was deleted."""
    written = prepare_pack(source, FRONT, PackOptions(tmp_path / "packs", workers=1)).folder
    moved = tmp_path / "elsewhere (2)"
    written.rename(moved)
    shutil.rmtree(tmp_path / "audio")
    shutil.rmtree(tmp_path / "packs")
    return moved


def test_pack_keeps_description_of_collection(source: Collection, folder: Path) -> None:
    packed = packs_of.collection(str(folder))
    for name in ("name", "title", "targets", "card", "note", "extra"):
        assert getattr(packed, name) == getattr(source, name), name


def test_pack_opens_without_audio(source: Collection, folder: Path, tmp_path: Path) -> None:
    packed = packs_of.collection(str(folder))
    pack = packed.pack(FRONT, PackOptions(tmp_path / "none"))
    assert pack.folder == folder
    expected = source.table.drop(index=4).drop(columns="path").reset_index(drop=True)
    pd.testing.assert_frame_equal(pack.index[expected.columns.tolist()], expected, check_dtype=False)
    pack.verify()
    assert not (tmp_path / "none").exists()


def test_pack_can_be_used_for_training(folder: Path, config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    datamodule = build_datamodule(
        config("data=pack", f"data.source.path='{folder}'", "feature.front.n_mels=20", f"data.packs={tmp_path}/none")
    )
    assert isinstance(datamodule, MusicData)
    datamodule.prepare_data()
    datamodule.setup()
    assert set(datamodule.targets) == {"genre", "energy"}
    rows = [
        row for split in ("train", "val", "test") for batch in datamodule.loader(split) for row in batch.row.tolist()
    ]
    assert sorted(rows) == list(range(COUNT - 1))
    assert datamodule.y["genre"].tolist() == [
        {"x": 0, "y": 1}.get(genre, -1) for genre in datamodule.pack.index["genre"]
    ]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "overrides"),
    [
        ({"n_mels": 40}, "feature.front.n_mels=20"),
        ({"tuning": None}, "feature.front.tuning=0.0"),
        ({"sync": "beat"}, "feature.sync=none"),
        ({"fmax": 8000.0, "rate": 16000}, "feature.front.rate=22050 feature.front.fmax=null"),
    ],
    ids=str,
)
def test_other_front_end_is_refused_with_overrides_to_add(
    change: dict[str, Any], overrides: str, folder: Path, config: Callable[..., dict[str, Any]]
) -> None:
    packed = packs_of.collection(str(folder))
    with pytest.raises(DataError) as error:
        packed.pack(replace(FRONT, **change), PackOptions())
    reason, _, added = str(error.value).partition("; add ")
    assert reason == f"{folder}: was written with another front end"
    assert sorted(added.split()) == sorted(overrides.split())
    # the pack can be opened with the overrides of the message
    keys = {key: "feature.sync" if key == "sync" else f"feature.front.{key}" for key in {"n_mels": 20, **change}}
    changed_overrides = [
        f"{keys[key]}={'null' if value is None else value}" for key, value in {"n_mels": 20, **change}.items()
    ]
    overrides = ["data=pack", f"data.source.path='{folder}'", *changed_overrides, *added.split()]
    datamodule = build_datamodule(config(*overrides))
    assert datamodule.open_pack().folder == folder


def test_folder_without_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/none: is not a complete pack"):
        packs_of.collection(str(tmp_path / "none"))


def test_pack_without_description_is_refused(tmp_path: Path) -> None:
    written = write_pack(tmp_path / "bare", pd.DataFrame({"id": ["a"]}), [np.zeros((3, 4))], {})
    with pytest.raises(DataError, match="bare: the manifest does not describe the collection; prepare it"):
        packs_of.collection(str(written.folder))


@pytest.mark.parametrize(
    "description", ["some text", {"name": "mine"}, {"name": "m", "title": "M", "targets": {}, "mood": 1}], ids=str
)
def test_pack_with_invalid_description_is_refused(folder: Path, description: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["origin"]["collection"] = description
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"^{folder.parent}"):
        packs_of.collection(str(folder))
