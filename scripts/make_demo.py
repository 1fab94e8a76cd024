"""Recompute the derived columns in clips.csv of the demo data set, the group and three descriptors of each clip.

python scripts/make_demo.py            rewrite the columns group, valence, energy and danceability
python scripts/make_demo.py --check    change nothing; exit with status 1 if a stored value differs
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from pathlib import Path

from etude.audio.decode import decode
from etude.audio.descriptors import descriptors

DEMO = Path(__file__).parents[1] / "src" / "etude" / "data" / "demo"
RATE = 22050
TOLERANCE = 1e-3
TARGETS = ("valence", "energy", "danceability")

# The team has unnamed members, and Escher composed for it, so their clips may share a person.
RELATED = (("Tobias Escher", "Unknown Horizons team"),)

Row = dict[str, str]


def people(artist: str) -> list[str]:
    """Return the names in a credit without parentheses: `A / B (Project)` -> [A, B]."""
    return [re.sub(r"\s*\(.*?\)\s*", " ", name).strip() for name in artist.split(" / ")]


def groups(rows: list[Row]) -> list[str]:
    """Return the group of each clip. Artists with a member in common, directly or through others, are one group.

    Args:
        rows: Clips with `artist`, `package`, `title` and `source_path`.

    Returns:
        A readable name per row, made of all people in the group.

    Raises:
        ValueError: A recording or a title is in two groups.
    """
    parent: dict[str, str] = {}  # union-find

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    display_names: dict[str, str] = {}
    for credit, package in sorted({(row["artist"], row["package"]) for row in rows}):
        for name, full in zip(people(credit), credit.split(" / "), strict=True):
            parent[find(name)] = find(people(credit)[0])
            # parentheses with the name of the package are a project and are removed; others are nicknames
            display_names[name] = re.sub(rf"\s*\({re.escape(package)}\)", "", full, flags=re.IGNORECASE)
    for first, second in RELATED:
        if first in parent and second in parent:
            parent[find(second)] = find(first)

    members = defaultdict(list)
    for name in sorted(parent):
        members[find(name)].append(re.sub(r"[^a-z0-9]+", "-", display_names[name].lower()).strip("-"))
    result = ["+".join(members[find(people(row["artist"])[0])]) for row in rows]
    for column in ("source_path", "title"):
        seen: dict[tuple[str, ...], str] = {}
        for row, group in zip(rows, result, strict=True):
            key = (row["package"], row[column]) if column == "source_path" else (row[column].casefold(),)
            if seen.setdefault(key, group) != group:
                raise ValueError(f"{column} {row[column]!r} is in two groups: {seen[key]} and {group}")
    return result


def recompute(rows: list[Row], folder: Path) -> list[Row]:
    """Return the rows with recomputed columns, with 4 decimals."""
    result = []
    for row, group in zip(rows, groups(rows), strict=True):
        values = descriptors(decode(folder / row["path"], RATE), RATE)
        result.append(row | {"group": group} | {name: f"{values[name]:.4f}" for name in TARGETS})
    return result


def differences(stored: list[Row], recomputed: list[Row]) -> list[str]:
    """Return a line for each stored value that differs from the recomputed one."""
    lines = []
    for old, new in zip(stored, recomputed, strict=True):
        if old["group"] != new["group"]:
            lines.append(f"{old['id']}: group is {old['group']}, should be {new['group']}")
        for name in TARGETS:
            # not `>`, so that NaN counts as a difference
            if not abs(float(old[name] or "nan") - float(new[name])) <= TOLERANCE:
                lines.append(f"{old['id']}: {name} is {old[name]}, should be {new[name]}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check clips.csv and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=DEMO, help="folder of clips.csv (default: the folder in the package)"
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    options = parser.parse_args(arguments)

    table = options.folder / "clips.csv"
    with table.open(encoding="utf-8", newline="") as file:
        stored = list(csv.DictReader(file))
    rows = recompute(stored, options.folder)
    lines = differences(stored, rows)
    print(*lines, f"{len(stored)} clips, {len(lines)} differences", sep="\n")
    if options.check:
        return int(bool(lines))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(stored[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
