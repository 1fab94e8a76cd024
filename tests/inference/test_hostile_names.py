"""Test that names of files, classes, targets and runs are escaped on the page of predictions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.hostile import NAMES, assert_harmless

from etude.audio.log_mel import LogMelChroma
from etude.inference import page
from etude.inference.engine import FilePrediction
from etude.inference.figure import FilePreview
from etude.inference.model import PredictionColumns


def test_page_of_predictions_escapes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = PredictionColumns({
        NAMES[0]: {"kind": "label", "classes": NAMES}, NAMES[7]: {"kind": "scalar", "low": 0.0, "high": 1.0},
    })  # fmt: skip
    checkpoint = tmp_path / NAMES[5] / "checkpoints" / NAMES[1].replace("/", "")
    model: Any = SimpleNamespace(
        columns=columns, checkpoint=checkpoint, name=NAMES[5], front=LogMelChroma(),
        network=SimpleNamespace(backbone=columns),
    )  # fmt: skip
    values = [1 / len(NAMES)] * len(NAMES) + [0.5]
    windows = [(0.0, 2.0, values), (1.0, 3.0, values)]
    names = [name.replace("/", "∕") for name in NAMES]
    predictions = [FilePrediction(Path("a<b>") / name, 1, 1, 3.0, values, windows) for name in names]
    predictions += [FilePrediction(Path(name), 1, 1, 0.0, reason=name) for name in names]

    def map_jobs(_: Any, jobs: list[Any], *__: Any, **___: Any) -> list[FilePreview]:
        return [FilePreview(reason=path.name) for path, _ in jobs]

    monkeypatch.setattr(page.worker_processes, "map_jobs", map_jobs)
    plan: Any = SimpleNamespace(window=2.0, overlap=False, crops=0, front=LogMelChroma(n_mels=4, rate=8000))
    monkeypatch.setattr(page, "frequency_ticks", lambda _: [(0.5, NAMES[2])])
    path = page.write_page(tmp_path, predictions, len(predictions), model, plan, NAMES[3], len(names))
    parsed = assert_harmless(path.read_text("utf-8"), scripts=1)
    text = "".join(data for _, data in parsed.data)
    assert all(name in text for name in names if "\n" not in name)
    assert all(name in text for name in (NAMES[0], NAMES[3], NAMES[7]))
