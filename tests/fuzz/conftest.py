"""Fixtures of all fuzz tests, a small finished run and a short audio file."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import etude
from etude.data.sources.demo import collection

TINY = [
    *("task=joint", "backbone=lstm", "backbone.hidden=8", "backbone.depth=1", "augment=none", "data.split.seed=0"),
    *("trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=2"),
]


@pytest.fixture(scope="session")
def tiny_run(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder of a finished run of two steps, which tests copy and must not change."""
    home = tmp_path_factory.mktemp("tiny")
    run = etude.run([*TINY, f"data.packs={packs}", f"outputs={home}/runs"])
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if handler.__class__.__module__ != "logging"]
    yield run.folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of one audio file of the embedded collection."""
    return Path(shutil.copy(collection().table["path"].iloc[0], tmp_path_factory.mktemp("clip") / "clip.ogg"))
