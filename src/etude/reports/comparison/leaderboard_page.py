"""Files of a leaderboard: HTML page with figures, Markdown, CSV, and text for the terminal."""

from __future__ import annotations

import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import (
    NAMES,
    capitalise_first,
    format_count,
    format_duration,
    format_number,
    format_score,
)
from etude.evaluation.paired_tests import LEVEL, format_p_value
from etude.evaluation.score_summary import describe_clips, list_limitations
from etude.files import ownership
from etude.files.atomic import write_text
from etude.reports.comparison.leaderboard import Entry, Leaderboard
from etude.reports.comparison.text import escape_markdown
from etude.reports.figures import shorten_label
from etude.reports.html import load_template
from etude.reports.svg import STAND_IN, draw_svg
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEM = "leaderboard"  # name of the files
WIDTH = 80  # characters of a line on the terminal


def describe_best(board: Leaderboard) -> str:
    """Return a sentence that names the best row."""
    best = board.entries[0]
    score = f"{NAMES[board.metric]} {format_score(best.score)}"
    if best.is_baseline:
        return f"No encoder is ahead of the baseline on {best.readout}: {score}."
    return f"Best: {best.title}, {score}."


def describe_candidates(board: Leaderboard) -> str:
    """Return sentences that name the rows that cannot be distinguished from the best."""
    others = board.entries[1:]
    if not others:
        return "There is no other row."
    if not any(entry.p is not None for entry in others):
        return "The differences cannot be tested on these clips."
    equal = [entry for entry in others if not entry.is_ruled_out]
    if not equal:
        return "All other rows are ruled out as the best."
    if len(equal) == len(others):
        return "No other row is ruled out, so these clips do not show which encoder or layer is best."
    if all(entry.is_baseline for entry in others if entry.is_ruled_out):
        return "Only the baseline is ruled out, so these clips do not show which encoder or layer is best."
    readouts: dict[str, list[str]] = defaultdict(list)
    for entry in equal:
        readouts[entry.encoder].append(entry.readout)
    sizes = Counter(entry.encoder for entry in board.entries)
    names = [
        f"{name} ({'all rows' if sizes[name] == len(texts) > 1 else ' / '.join(texts)})"
        for name, texts in readouts.items()
    ]
    return f"Indistinguishable from it here: {', '.join(names)}. The other rows are ruled out as the best."


def describe_choice(board: Leaderboard) -> str:
    """Return sentences on the optimism of the best score, and on the row that the inner scores choose."""
    text = f"The best of {len(board.entries)} test scores is optimistic."
    if board.chosen is None or board.choice is None:
        return text
    place = [entry.title for entry in board.entries].index(board.chosen.title) + 1
    text += (
        f" Choose by the {board.inner_name}, which does not use the test clips of a fold: it selects "
        f"{board.chosen.title} (row {place})."
    )
    if sum(board.choices.values()) > 1:
        text += f" Selected again in each fold, the test score is {format_score(board.choice)}"
        text += ", the score to expect of this choice."
    return text


def write_leaderboard(folder: Path, boards: Sequence[Leaderboard], remarks: Sequence[str], data: str) -> list[Path]:
    """Write leaderboards as CSV, Markdown and HTML, and return the paths.

    Args:
        folder: Folder of the sweep.
        boards: Leaderboards of all targets.
        remarks: Remarks about runs that are left out.
        data: Name of the data.

    Raises:
        UserError: A file of this name exists and was not written by Étude.
    """
    import pandas as pd

    rows = [row for board in boards for row in _plain_rows(board, folder)]
    texts = {
        "csv": pd.DataFrame(rows).to_csv(index=False),
        "md": _leaderboard_markdown(boards, remarks),
        "html": _leaderboard_page(folder, boards, remarks, data),
    }
    ownership.open_folder(folder)
    ownership.check_names(folder, [f"{STEM}.{suffix}" for suffix in texts])
    return [write_text(folder / f"{STEM}.{suffix}", text) for suffix, text in texts.items()]


def leaderboard_text(boards: Sequence[Leaderboard], remarks: Sequence[str]) -> str:
    """Return leaderboards for the terminal, in lines of at most 80 characters."""
    blocks = []
    for board in boards:
        rows = [["", "encoder", "read-out", NAMES[board.metric], "p", board.inner_name.removeprefix("inner ")]]
        for i, entry in enumerate(board.entries, 1):
            p = format_p_value(entry.p).removeprefix("= ") if entry.p is not None else ""
            rows.append([str(i), entry.encoder, entry.readout, format_score(entry.score), p, _inner_text(entry)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        excess = sum(widths) + 2 * (len(widths) - 1) - WIDTH
        for i in (2, 1):  # long names are shortened
            cut = min(max(excess, 0), widths[i] - 12)
            widths[i], excess = widths[i] - cut, excess - cut
        lines = [f"{board.target}: {describe_clips(board.results)}"]
        for row in rows:
            cells = [
                text if len(text) <= width else text[: width - 1] + "…" for text, width in zip(row, widths, strict=True)
            ]
            padded = [cells[0].rjust(widths[0])]
            padded += [text.ljust(width) for text, width in zip(cells[1:3], widths[1:3], strict=True)]
            padded += [text.rjust(width) for text, width in zip(cells[3:], widths[3:], strict=True)]
            lines.append("  ".join(padded).rstrip())
        lines += textwrap.wrap(f"{describe_best(board)} {describe_candidates(board)} {describe_choice(board)}", WIDTH)
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *("\n".join(textwrap.wrap(remark, WIDTH)) for remark in remarks)])


def _leaderboard_markdown(boards: Sequence[Leaderboard], remarks: Sequence[str]) -> str:
    """Return leaderboards as Markdown."""
    blocks = []
    for board in boards:
        heads = ["#", "encoder", "read-out", NAMES[board.metric], "minus best", "p", board.inner_name]
        lines = [[*heads, "embedding", "parameters", "time of a run"], ["---:", "---", "---", *["---:"] * 7]]
        for i, entry in enumerate(board.entries, 1):
            difference = format_score(entry.difference) if entry.difference else ""
            p = format_p_value(entry.p).removeprefix("= ") if entry.p is not None else ""
            sizes = [f"{size:,}" if size else "" for size in (entry.embedding, entry.parameters)]
            seconds = format_duration(entry.seconds[0]) if entry.seconds else ""
            cells = [str(i), entry.encoder, entry.readout, format_score(entry.score), difference, p]
            lines.append([escape_markdown(text) for text in (*cells, _inner_text(entry), *sizes, seconds)])
        blocks += [f"### {escape_markdown(board.target)}: {describe_clips(board.results)}"]
        blocks += ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
        blocks += [
            escape_markdown(text) for text in (describe_best(board), describe_candidates(board), describe_choice(board))
        ]
    blocks += ["\n".join(f"- {escape_markdown(remark)}" for remark in remarks)] * bool(remarks)
    return "\n\n".join(blocks) + "\n"


def _leaderboard_page(folder: Path, boards: Sequence[Leaderboard], remarks: Sequence[str], data: str) -> str:
    """Return leaderboards as an HTML page."""
    encoders = {entry.encoder for board in boards for entry in board.entries if not entry.is_baseline}
    rows = max(sum(not entry.is_baseline for entry in board.entries) for board in boards)
    return load_template("leaderboard.html.j2").render(
        title="Which encoder, and which of its layers?",
        counts=f"{format_count(len(encoders), 'encoder')} with their read-outs, {format_count(rows, 'linear probe')}",
        data=data,
        boards=[_board_content(board, folder) for board in boards],
        figures=[_forest_plot(board, f"board-{i}") for i, board in enumerate(boards)],
        remarks=remarks,
        level=LEVEL,
    )


def _board_content(board: Leaderboard, folder: Path) -> dict[str, Any]:
    """Return a leaderboard for the template."""
    entries = []
    for entry in board.entries:
        report = RunFolder(entry.folder).report_path
        link = "" if entry.is_baseline or not report.is_file() else Path(os.path.relpath(report, folder)).as_posix()
        p = format_p_value(entry.p).removeprefix("= ") if entry.p is not None else ""
        texts = {"link": link, "p_text": p, "inner_text": _inner_text(entry), "is_chosen": entry == board.chosen}
        entries.append({name: getattr(entry, name) for name in Entry.__dataclass_fields__} | texts)
    return {
        "target": board.target,
        "metric": NAMES[board.metric],
        "inner_name": board.inner_name,
        "clips": capitalise_first(describe_clips(board.results)),
        "notes": list_limitations(board.results),
        "entries": entries,
        "conclusion": describe_best(board),
        "comparison": describe_candidates(board),
        "advice": describe_choice(board),
    }


def _forest_plot(board: Leaderboard, name: str) -> str:
    """Return a figure with score and interval of each row, best first."""
    defined = [entry for entry in board.entries if entry.score["value"] is not None]
    values = [float(entry.score["value"] or 0.0) for entry in defined]
    labels = [
        shorten_label(entry.title, 48) + (" (inner choice)" if entry == board.chosen else "") for entry in defined
    ]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for y, entry in enumerate(defined):
            value, low, high = values[y], entry.score["low"], entry.score["high"]
            colour = STAND_IN["linear" if entry.is_baseline else "muted" if entry.is_ruled_out else "network"]
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour, linewidth=2)
            marker, face = "s" if entry.is_baseline else "o", STAND_IN["paper"] if entry.is_ruled_out else colour
            axes.plot(value, y, marker, color=colour, markerfacecolor=face, markeredgewidth=1.6, markersize=6.5)
        axes.axvline(values[0], color=STAND_IN["rule"], linewidth=1.2, zorder=0)
        axes.set_yticks(range(len(defined)), labels)
        axes.set_ylim(len(defined) - 0.4, -0.6)
        axes.grid(axis="x", color=STAND_IN["rule"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{shorten_label(board.target, 40)}: {NAMES[board.metric]} (no unit), 95 % interval")

    description = f"{board.target}: {NAMES[board.metric]} of {len(defined)} rows with 95 % confidence intervals."
    return draw_svg(draw, name, (8.4, 0.7 + 0.3 * len(defined)), description) if defined else ""


def _plain_rows(board: Leaderboard, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a leaderboard as plain values for CSV."""
    rows = []
    for i, entry in enumerate(board.entries, 1):
        values = asdict(entry)
        row = {"target": board.target, "metric": board.metric, "rank": i}
        row |= {key: values[key] for key in ("encoder", "readout")} | entry.score
        row |= {f"difference_{key}": (entry.difference or {}).get(key) for key in ("value", "low", "high")}
        row |= {key: values[key] for key in ("p", "is_ruled_out", "is_baseline", "inner", "embedding", "parameters")}
        row |= {"is_chosen": entry == board.chosen, "seconds": entry.seconds and entry.seconds[0]}
        row |= {"first_seconds": entry.seconds and entry.seconds[1], "folder": os.path.relpath(entry.folder, folder)}
        rows.append(row)
    return rows


def _inner_text(entry: Entry) -> str:
    """Return the inner loss of a row as text, or "" if it has none."""
    return "" if entry.inner is None else format_number(entry.inner, 3)
