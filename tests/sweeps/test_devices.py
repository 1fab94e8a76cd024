"""No GPU has two jobs, and each job has as many as it asks for."""

from __future__ import annotations

import pytest

from etude.errors import UserError
from etude.sweeps.scheduler import Pool, visible


def test_jobs_side_by_side_have_gpus_of_their_own() -> None:
    pool = Pool(["0", "1", "2", "3"])
    one, two, three = pool.take(0, 2), pool.take(1, 1), pool.take(2, 2)
    assert (one, two, three) == (["0", "1"], ["2"], None)
    assert pool.take(3, 1) == ["3"]  # a smaller one goes before
    pool.give(0)
    assert pool.take(2, 2) == ["0", "1"]


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({"accelerator": "gpu", "devices": 2}, 2),
        ({"accelerator": "auto", "devices": 1}, 1),
        ({"accelerator": "cuda", "devices": -1}, 4),
        ({"accelerator": "gpu", "devices": "auto"}, 4),
        ({"accelerator": "cpu", "devices": 2}, 0),
    ],
)
def test_a_trainer_says_how_many(trainer: dict[str, object], count: int) -> None:
    assert Pool(["0", "1", "2", "3"]).wanted(trainer) == count
    assert Pool([]).wanted(trainer) == 0  # Lightning says what it finds


@pytest.mark.parametrize(("devices", "said"), [(3, "there are 2 GPUs"), ([0, 1], "how many a job gets, not which")])
def test_what_cannot_be_shared_out_is_refused(devices: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Pool(["0", "1"]).wanted({"accelerator": "gpu", "devices": devices})


@pytest.mark.parametrize(
    ("said", "names"), [("", []), ("-1", []), ("2,3", ["2", "3"]), ("GPU-5a, GPU-7b", ["GPU-5a", "GPU-7b"])]
)
def test_what_is_hidden_from_this_process_is_not_shared_out(
    said: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible() == names


def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    driver.chmod(0o755)
    assert visible() == ["0", "1"]
