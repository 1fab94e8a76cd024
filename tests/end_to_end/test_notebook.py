"""Test that the notebook of the documentation runs completely and shows the results of its runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from etude.evaluation.formatting import format_number

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.mark.full
def test_notebook_shows_the_results_of_its_runs(
    tmp_path: Path, packs: Path, environment: dict[str, str], monkeypatch: Any
) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "packs").symlink_to(packs)
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # an installed kernel may use another environment
    client.execute()

    shown = [_shown(cell) for cell in notebook.cells if cell.cell_type == "code"]
    first, second = sorted(
        (path for path in (tmp_path / "outputs").iterdir() if path.name != "packs"), key=lambda path: path.name
    )
    metrics = json.loads((first / "metrics.json").read_text())["targets"]["genre"]["splits"]["test"]
    score = metrics["scores"]["macro_f1"]
    assert f"<strong>{format_number(score['value'])}</strong>" in shown[0]
    assert f"[{format_number(score['low'])}, {format_number(score['high'])}]" in shown[0]
    assert f"{score['value']:.6f}" in shown[1]
    for row in metrics["confusion"]:
        assert "".join(f"<td>{count}</td>" for count in row) in "".join(shown[2].split())
    assert "<svg" in shown[3] and "--network: #" in shown[3]
    assert "genre.pred" in shown[4]
    assert "electronic" in shown[6] and "metal" in shown[6]
    assert "_demo_genre_lstm_mel_" in first.name and "_demo_genre_lstm_chroma_" in second.name
    assert r"genre\_lstm\_chroma" in shown[8] and format_number(score["value"]) in shown[8]
    assert shown[9] == shown[0]


def _shown(cell: Any) -> str:
    """Return the last output of a cell, as HTML if it has HTML."""
    data = [output.data for output in cell.outputs if "data" in output]
    kinds = ("text/html", "text/markdown", "text/plain")
    return next((str(data[-1][kind]) for kind in kinds if kind in data[-1]), "") if data else ""
