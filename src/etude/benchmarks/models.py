"""A training step of each backbone against the network that one would otherwise take, one thread."""

from __future__ import annotations

import warnings

from etude.benchmarks.timing import Section


def run() -> list[Section]:
    """Time the transformer, the LSTM and the convolutional network."""
    import torch

    from etude.benchmarks import convolutional, recurrent, transformer

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return [transformer.section(), *recurrent.sections(), convolutional.section()]
