"""Tests of the resources that a job requests from Slurm."""

from __future__ import annotations

from typing import Any

import pytest

from etude.errors import UserError
from etude.sweeps.launcher import devices_per_node


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"accelerator": "auto", "devices": 1}, (1, 1)),
        ({"accelerator": "gpu", "devices": 4}, (4, 4)),
        ({"accelerator": "gpu", "devices": [0, 1]}, (2, 2)),
        ({"accelerator": "cpu", "devices": 2}, (0, 2)),
    ],
)
def test_each_device_has_one_process(trainer: dict[str, Any], expected: tuple[int, int]) -> None:
    assert devices_per_node(trainer) == expected


@pytest.mark.parametrize("devices", [-1, "auto", 0])
def test_unknown_number_of_devices_is_refused(devices: Any) -> None:
    with pytest.raises(UserError, match=r"trainer\.devices=.*add trainer\.devices=4"):
        devices_per_node({"devices": devices})
