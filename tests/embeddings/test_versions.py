"""Tests that a change of the outputs of a backbone or a front end increases its version.

Otherwise stored embeddings of the earlier version would be used. After an increase, write the new references with
`python -m tests.embeddings.test_versions`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tests.backbone_names import WITHOUT_CHECKPOINT

from etude.config.compose import conf_dir, open_hydra
from etude.config.instantiate import make

REFERENCES = Path(__file__).with_name("references.json")
COMMAND = "python -m tests.embeddings.test_versions"
BINS, FRAMES, N_VALUES = 128, 120, 8
FRONTS = sorted(path.stem for path in (conf_dir() / "feature" / "front").glob("*.yaml"))
NAMES = [*(f"backbone {name}" for name in WITHOUT_CHECKPOINT), *(f"front end {name}" for name in FRONTS)]
SLOW = ("front end patreco",)  # compiles the constant-Q transform
TOLERANCE = 1e-3  # of the largest value; other processors and libraries round differently


def compute(name: str) -> dict[str, Any]:
    """Return the version and some outputs for a fixed input of a backbone with fixed weights, or of a front end."""
    kind, _, option = name.rpartition(" ")
    rng = np.random.default_rng(0)
    with open_hydra() as composer:
        group = "feature/front" if kind == "front end" else "backbone"
        composed = composer.compose([f"{group}={option}"])
    if kind == "front end":
        front = make(OmegaConf.to_container(composed.feature.front))
        audio = rng.normal(size=front.rate).astype(np.float32) if front.reads_sound else rng.random((40, 30))
        return {"version": front.revision, "outputs": _sample(front.frames(audio))}
    node = OmegaConf.to_container(composed.backbone)
    torch.manual_seed(0)
    net = make(node, BINS)
    for key, value in net.state_dict().items():  # initial weights would depend on the version of torch
        if value.is_floating_point():
            scale = 0.5 if value.ndim < 2 else (3 / value[0].numel()) ** 0.5
            weights = rng.uniform(-scale, scale, size=tuple(value.shape))
            value.copy_(torch.from_numpy(weights + 1 if key.endswith("running_var") else weights))
    x = torch.from_numpy(rng.normal(size=(2, FRAMES, BINS)).astype(np.float32))
    with torch.no_grad():
        z = net.eval()(x, torch.tensor([FRAMES, FRAMES // 2]))
    return {"version": net.version, "outputs": _sample(z.numpy())}


def _sample(values: np.ndarray) -> list[float]:
    """Return values from the beginning to the end, then the mean and the standard deviation."""
    selected = values.ravel()[np.linspace(0, values.size - 1, N_VALUES).astype(int)]
    return [float(f"{value:.6g}") for value in (*selected, values.mean(), values.std())]


def differs(found: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Return whether outputs differ by more than rounding."""
    first, second = np.array(found["outputs"]), np.array(stored["outputs"])
    return bool(np.abs(first - second).max() > TOLERANCE * np.abs(second).max())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if name in SLOW else name for name in NAMES]
)
def test_changed_outputs_have_another_version(name: str) -> None:
    stored, found = json.loads(REFERENCES.read_text()).get(name), compute(name)
    assert stored is not None, f"{name}: has no reference; write it with {COMMAND}"
    attribute = "version" if name.startswith("backbone") else "revision"
    assert not (differs(found, stored) and found["version"] == stored["version"]), (
        f"{name}: its outputs changed; increase its {attribute} and write the new reference with {COMMAND}"
    )
    assert found["version"] == stored["version"], f"{name}: its {attribute} changed; write the reference with {COMMAND}"


def test_references_are_of_existing_options() -> None:
    assert sorted(json.loads(REFERENCES.read_text())) == sorted(NAMES)


def main() -> int:
    """Write the references of new options and of increased versions, and return the exit status."""
    references = json.loads(REFERENCES.read_text()) if REFERENCES.is_file() else {}
    status = 0
    for name in NAMES:
        found, stored = compute(name), references.get(name)
        if stored and differs(found, stored) and found["version"] == stored["version"]:
            sys.stderr.write(f"{name}: its outputs changed and its version did not; increase it first\n")
            status = 1
        elif stored is None or found["version"] != stored["version"]:
            references[name] = found
    lines = [f" {json.dumps(name)}: {json.dumps(references[name])}" for name in sorted(NAMES) if name in references]
    REFERENCES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
