"""Tests that collected outputs have one row per clip in table order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from etude.training.learner import PredictionCollector


def batch(rows: list[int]) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch whose values are functions of the row."""
    row = torch.tensor(rows)
    values = row[:, None] + torch.arange(3) / 10
    return row, values, {"genre": 2.0 * values, "energy": -values[:, :1]}, {"genre": row, "energy": row / 100}


def collect(*batches: list[int]) -> dict[str, Tensor]:
    collected = PredictionCollector(["genre", "energy"])
    for rows in batches:
        collected.update(*batch(rows))
    return collected.compute()


def flat(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reshape columns to a row per clip, because torchmetrics squeezes a table of one row."""
    rows = table["row"].numel()
    return {key: column.reshape(rows, -1) for key, column in table.items()}


@pytest.mark.parametrize(
    "batches",
    [[[0, 1, 2, 3]], [[3, 1], [2, 0]], [[2], [0, 3], [1]], [[3, 1, 3], [0, 1], [2, 0, 0]]],
    ids=["in order", "out of order", "uneven", "with doubles"],
)
def test_table_has_each_clip_once_and_in_order(batches: list[list[int]]) -> None:
    row, z, out, y = batch([0, 1, 2, 3])
    expected = {"row": row, "z": z, "out.genre": out["genre"], "out.energy": out["energy"],
                "y.genre": y["genre"], "y.energy": y["energy"]}  # fmt: skip
    torch.testing.assert_close(collect(*batches), expected)


@pytest.mark.parametrize("batches", [[[7]], [[7], [7]]])
def test_table_of_one_clip(batches: list[list[int]]) -> None:
    row, z, out, y = batch([7])
    expected = {"row": row, "z": z, "out.genre": out["genre"], "out.energy": out["energy"],
                "y.genre": y["genre"], "y.energy": y["energy"]}  # fmt: skip
    torch.testing.assert_close(flat(collect(*batches)), flat(expected))


def test_first_of_duplicate_rows_is_kept() -> None:
    collected = PredictionCollector(["genre", "energy"])
    row, z, out, y = batch([5, 2])
    collected.update(row, z, out, y)
    collected.update(row, z + 1, out, y)
    torch.testing.assert_close(collected.compute()["z"], z[[1, 0]])


def test_reset_removes_all_rows() -> None:
    collected = PredictionCollector(["genre", "energy"])
    collected.update(*batch([0, 1, 2]))
    collected.compute()
    collected.reset()
    collected.update(*batch([4, 3]))
    assert collected.compute()["row"].tolist() == [3, 4]


def test_half_precision_is_converted_to_single() -> None:
    row, z, out, y = batch([1, 0])
    collected = PredictionCollector(["genre", "energy"])
    collected.update(row, z.bfloat16(), {name: value.bfloat16() for name, value in out.items()}, y)
    table = collected.compute()
    assert {table[key].dtype for key in ("z", "out.genre", "out.energy", "y.energy")} == {torch.float32}


def test_outputs_are_detached() -> None:
    row, z, out, y = batch([1, 0])
    collected = PredictionCollector(["genre", "energy"])
    collected.update(row, z.requires_grad_(), {name: value.requires_grad_() for name, value in out.items()}, y)
    assert not any(tensor.requires_grad for column in collected.metric_state.values() for tensor in column)


def test_missing_values_stay_missing() -> None:
    row, z, out, _ = batch([1, 0])
    collected = PredictionCollector(["genre", "energy"])
    collected.update(row, z, out, {"genre": torch.tensor([2, -1]), "energy": torch.tensor([float("nan"), 0.5])})
    table = collected.compute()
    assert table["y.genre"].tolist() == [-1, 2]
    assert table["y.energy"].isnan().tolist() == [False, True]
