"""HTML page of a sweep with several tables in a given order, such as those of a publication."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etude.errors import UserError
from etude.evaluation.formatting import format_count, format_duration
from etude.files import ownership
from etude.files.atomic import write_text
from etude.reports.comparison.axes import axis_value
from etude.reports.comparison.page import table_content
from etude.reports.comparison.runs import ComparedRun, mapping_or_empty, run_titles
from etude.reports.comparison.table import Labels
from etude.reports.comparison.text import Comparison
from etude.reports.html import load_template
from etude.runs.folder import RunFolder

LINKS = {
    "compare.html": "comparison of all runs, with paired tests",
    "maps.html": "maps of the embeddings",
    "curves.html": "learning curves",
}
"""Pages that are linked if they are in the folder of the sweep."""


@dataclass(frozen=True)
class PublishedTable:
    """Published scores, which are shown below the tables of runs on the same data.

    Args:
        source: Name of the publication and its table.
        data: Config of the data (`data=...`) on which the scores were measured.
        columns: Titles of the columns.
        rows: Cells of each row as text.
    """

    source: str
    data: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class SweepSection:
    """Section of the page of a sweep.

    Args:
        title: Heading.
        text: Sentences below the heading.
        comparison: Tables of the section, or None if they could not be built.
        error: The reason if they could not be built.
        published: Published scores of the same table, or None.
    """

    title: str
    text: str = ""
    comparison: Comparison | None = None
    error: str = ""
    published: PublishedTable | None = None


@dataclass(frozen=True)
class PageOptions:
    """Options of the page of a sweep.

    Args:
        name: Name of the file without its suffix.
        title: Title of the page.
        text: Sentences below the title.
        sections: Sections without tables, by the name of a table of the sweep.
    """

    name: str
    title: str
    text: str = ""
    sections: Mapping[str, SweepSection] = field(default_factory=dict)

    def section(self, name: str, comparison: Comparison | None, error: str = "") -> SweepSection:
        """Return the section of a table."""
        return replace(self.sections.get(name, SweepSection(name)), comparison=comparison, error=error)


def page_from_config(values: Mapping[str, Any]) -> PageOptions:
    """Return the options of a page of a sweep's config.

    Args:
        values: Mapping with `name`, `title`, `text` and `sections`, a mapping from tables to `title`, `text` and
            `published`. A published table has `source`, `data`, `columns` and `rows`.

    Raises:
        UserError: A key is missing or unknown, or a value has another type.
    """
    fields = _check_keys("page", values, ("name", "title"), ("text", "sections"))
    sections = {}
    for name, section in _check_keys("page.sections", fields.pop("sections", None) or {}, (), None).items():
        key = f"page.sections.{name}"
        content = _check_keys(key, section, (), ("title", "text", "published"))
        published = None
        if table := content.pop("published", None):
            key = f"{key}.published"
            items = _check_keys(key, table, ("source", "data", "columns", "rows"), ())
            columns, rows = list(items["columns"]), [list(map(str, row)) for row in items["rows"]]
            if wrong := [row for row in rows if len(row) != len(columns)]:
                raise UserError(f"{key}.rows: {wrong[0]} has {len(wrong[0])} cells instead of {len(columns)}")
            published = PublishedTable(str(items["source"]), str(items["data"]), list(map(str, columns)), rows)
        texts = {item: str(text) for item, text in content.items() if text is not None}
        sections[name] = SweepSection(texts.get("title", name), texts.get("text", ""), published=published)
    return PageOptions(**{item: str(text) for item, text in fields.items() if text is not None}, sections=sections)


def check_page_name(name: str, taken: Sequence[str]) -> None:
    """Check the name of a page of a sweep, which becomes the name of a file.

    Args:
        name: Name without its suffix.
        taken: Names of other pages.

    Raises:
        UserError: The name is taken, or has other characters than letters, digits, `_`, `-` and dots.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r}: is not a name of a page; use letters, digits, _ and -")
    if name in taken:
        raise UserError(f"{name}: is the name of another page of the sweep; choose another name")


def _check_keys(key: str, values: Any, required: Labels, optional: Labels | None) -> dict[str, Any]:
    """Return a mapping of a config after checking its keys. `optional` None allows all keys."""
    if not isinstance(values, Mapping):
        raise UserError(f"{key}: must be a mapping")
    if missing := [name for name in required if values.get(name) is None]:
        raise UserError(f"{key}.{missing[0]}: is missing")
    known = (*required, *(optional or ()))
    if optional is not None and (unknown := [name for name in values if name not in known]):
        raise UserError(f"{key}.{unknown[0]}: is not an option; available: {', '.join(known)}")
    return {str(name): value for name, value in values.items()}


def write_sweep_page(
    folder: Path, options: PageOptions, sections: Sequence[SweepSection], runs: Sequence[ComparedRun]
) -> Path:
    """Write the page of a sweep and return its path.

    Args:
        folder: Folder of the sweep.
        options: Options of the page.
        sections: Sections in their order.
        runs: All runs of the sweep in any state.

    Raises:
        UserError: A file of this name exists and was not written by Étude.
    """
    file = f"{options.name}.html"
    ownership.open_folder(folder)
    ownership.check_names(folder, [file])
    return write_text(folder / file, render_sweep_page(folder, options, sections, runs))


def render_sweep_page(
    folder: Path, options: PageOptions, sections: Sequence[SweepSection], runs: Sequence[ComparedRun]
) -> str:
    """Return the page of a sweep as HTML."""
    single = [run for run in runs if not run.pooled]
    finished = [run for run in single if run.status == "finished"]
    total = sum(run.seconds or 0 for run in finished)
    names = run_titles(single)
    return load_template("sweep.html.j2").render(
        title=options.title,
        text=options.text,
        counts=f"{len(finished)} of {format_count(len(single), 'run')} finished, {format_duration(total)} in total",
        data=", ".join(dict.fromkeys(axis_value(run, "data") for run in finished)),
        trial=_count_trials(finished),
        sections=[_section_content(section) for section in sections],
        runs=[_run_content(run, names, folder) for run in single],
        links={file: text for file, text in LINKS.items() if (folder / file).is_file()},
    )


def _count_trials(runs: Sequence[ComparedRun]) -> str:
    """Return the number of trial runs with shortened training as text, or ""."""
    count = sum(bool(run.record.get("trial")) for run in runs)
    return format_count(count, "run") if count else ""


def _section_content(section: SweepSection) -> dict[str, Any]:
    """Return a section for the template."""
    comparison, published = section.comparison, section.published
    runs = comparison.runs if comparison else []
    seconds = [run.seconds for run in runs if run.seconds and not run.pooled]
    names = comparison.names if comparison else {}
    trials = {f"{names[run.folder]}: {run.remark}" for run in runs if run.record.get("trial")}  # in the page's head
    same_data = bool(runs) and published is not None and all(_data_option(run) == published.data for run in runs)
    return {
        "title": section.title,
        "text": section.text,
        "error": section.error,
        "tables": [table_content(table) for table in comparison.tables] if comparison else [],
        "remarks": [text for text in comparison.remarks if text not in trials] if comparison else [],
        "time": f"{format_count(len(seconds), 'run')}, {format_duration(sum(seconds))}" if seconds else "",
        "published": published if same_data else None,
    }


def _run_content(run: ComparedRun, names: Mapping[Path, str], folder: Path) -> dict[str, Any]:
    """Return a run for the template, with a link to its report if there is one."""
    model = mapping_or_empty(run.record.get("model"))
    report = RunFolder(run.folder).report_path
    inside = run.folder.resolve().is_relative_to(folder.resolve())
    return {
        "name": names[run.folder],
        "link": report.resolve().relative_to(folder.resolve()).as_posix() if inside and report.is_file() else "",
        "status": run.status,
        "remark": run.remark,
        "epochs": "linear probe" if model.get("linear_probe") else model.get("epochs"),
        "clips": mapping_or_empty(mapping_or_empty(run.data.get("splits")).get("train")).get("clips"),
        "seconds": run.seconds,
    }


def _data_option(run: ComparedRun) -> str:
    """Return the option of the config group data that a run used, or ""."""
    return str(mapping_or_empty(run.config.get("choices")).get("data") or "")
