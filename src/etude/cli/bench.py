"""The command: `python scripts/bench.py audio models`, the tables and which bar holds."""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module

from etude.benchmarks.timing import Section
from etude.cli.runner import guard_command

BENCHES = {
    "audio": "sound to frames",
    "data": "frames on disk to batches",
    "models": "a training step of each backbone",
    "loop": "a run's step against a bare loop",
    "startup": "how soon the command line answers",
    "predict": "predictions on a folder against a file at a time",
    "sweeps": "a process for each job of a sweep against one for all",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Time, print, and with `--check` judge.

    Returns:
        0; 1 with `--check` when a bar does not hold.
    """
    return guard_command(lambda: _bench(argv))


def _bench(argv: Sequence[str] | None) -> int:
    """Time what the command line names."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Speed against peers that are timed in the same run, and the bars it has to hold."
    )
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(f"{k} ({v})" for k, v in BENCHES.items()))
    parser.add_argument("--check", action="store_true", help="exit status 1 when a bar does not hold")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.what if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(BENCHES)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sections = {name: import_module(f"etude.benchmarks.{name}").run() for name in options.what or BENCHES}
    if options.json:
        print(json.dumps({"machine": _machine(), "sections": _plain(sections)}, indent=1))  # noqa: T201
    else:
        _show([section for several in sections.values() for section in several])
    failed = [bar for several in sections.values() for section in several for bar in section.bars if not bar.holds]
    return int(options.check and bool(failed))


def _plain(sections: dict[str, list[Section]]) -> dict[str, object]:
    return {
        name: [
            {**asdict(section), "bars": [{**asdict(bar), "holds": bar.holds} for bar in section.bars]}
            for section in several
        ]
        for name, several in sections.items()
    }


def _machine() -> dict[str, object]:
    import torch

    from etude.experiment.provenance import hardware

    return {**hardware(), "python": platform.python_version(), "torch": torch.__version__}


def _show(sections: list[Section]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for section in sections:
        table = Table(
            title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("")
        table.add_column(section.unit, justify="right")
        table.add_column("speed", justify="right")
        for title in section.further:
            table.add_column(title, justify="right")
        for place, (name, value, ratio) in enumerate(section.rows):
            further = (_short(column[place]) for column in section.further.values())
            table.add_row(name, _short(value), f"{ratio:.2f} ×", *further)
        console.print(table)
        for bar in section.bars:
            word, sign = ("holds" if bar.holds else "DOES NOT HOLD"), ("at least" if bar.at_least else "at most")
            console.print(f"  {word:<13} {bar.name}: {bar.value:.3g}{bar.unit} ({sign} {bar.limit:g}{bar.unit})")
        for note in section.notes:
            console.print(f"  note: {note}")
        console.print()


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
