"""What a job asks of a cluster follows from its trainer."""

from __future__ import annotations

from typing import Any

import pytest

from etude.errors import UserError
from etude.sweeps.slurm import per_node


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({"accelerator": "auto", "devices": 1}, (1, 1)),
        ({"accelerator": "gpu", "devices": 4}, (4, 4)),
        ({"accelerator": "gpu", "devices": [0, 1]}, (2, 2)),
        ({"accelerator": "cpu", "devices": 2}, (0, 2)),
    ],
)
def test_a_process_for_each_device(trainer: dict[str, Any], wanted: tuple[int, int]) -> None:
    assert per_node(trainer) == wanted


@pytest.mark.parametrize("devices", [-1, "auto", 0])
def test_all_that_a_machine_has_is_no_number(devices: Any) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices=.*add trainer\.devices=4"):
        per_node({"devices": devices})
