"""Recompute what clips.csv of the demo data set derives: the groups and the three descriptors of each clip.

python scripts/make_demo.py            rewrite the columns group, valence, energy and danceability
python scripts/make_demo.py --check    change nothing; exit 1 if a stored value differs from the recomputed one
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

# A team has unnamed members, and Escher wrote for this one: their clips cannot be shown to share nobody.
ONE_PEOPLE = (("Tobias Escher", "Unknown Horizons team"),)

Row = dict[str, str]


def people(artist: str) -> list[str]:
    """The names in a credit, without what stands in parentheses: `A / B (Project)` -> [A, B]."""
    return [re.sub(r"\s*\(.*?\)\s*", " ", name).strip() for name in artist.split(" / ")]


def groups(rows: list[Row]) -> list[str]:
    """What must never cross a split: artists who share a person, directly or through others, are one group.

    Args:
        rows: Clips with `artist`, `package`, `title` and `source_path`.

    Returns:
        A readable slug per row: the names of everyone in the group.

    Raises:
        ValueError: One recording or one title is in two groups.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    shown: dict[str, str] = {}
    for credit, package in sorted({(row["artist"], row["package"]) for row in rows}):
        for name, full in zip(people(credit), credit.split(" / "), strict=True):
            leader[find(name)] = find(people(credit)[0])
            # A parenthesis that names the package is a project; any other is a nickname and helps the reader.
            shown[name] = re.sub(rf"\s*\({re.escape(package)}\)", "", full, flags=re.IGNORECASE)
    for first, second in ONE_PEOPLE:
        if first in leader and second in leader:
            leader[find(second)] = find(first)

    members = defaultdict(list)
    for name in sorted(leader):
        members[find(name)].append(re.sub(r"[^a-z0-9]+", "-", shown[name].lower()).strip("-"))
    result = ["+".join(members[find(people(row["artist"])[0])]) for row in rows]
    for column in ("source_path", "title"):
        seen: dict[tuple[str, ...], str] = {}
        for row, group in zip(rows, result, strict=True):
            key = (row["package"], row[column]) if column == "source_path" else (row[column].casefold(),)
            if seen.setdefault(key, group) != group:
                raise ValueError(f"{column} {row[column]!r} is in two groups: {seen[key]} and {group}")
    return result


def derive(rows: list[Row], folder: Path) -> list[Row]:
    """The rows with their derived columns computed anew, 4 decimals."""
    result = []
    for row, group in zip(rows, groups(rows), strict=True):
        values = descriptors(decode(folder / row["path"], RATE), RATE)
        result.append(row | {"group": group} | {name: f"{values[name]:.4f}" for name in TARGETS})
    return result


def differences(stored: list[Row], fresh: list[Row]) -> list[str]:
    """One line per stored value that is not what the clip gives."""
    lines = []
    for old, new in zip(stored, fresh, strict=True):
        if old["group"] != new["group"]:
            lines.append(f"{old['id']}: group is {old['group']}, should be {new['group']}")
        for name in TARGETS:
            # Not `>`: a NaN on either side must count as a difference.
            if not abs(float(old[name] or "nan") - float(new[name])) <= TOLERANCE:
                lines.append(f"{old['id']}: {name} is {old[name]}, should be {new[name]}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check clips.csv; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=DEMO, help="where clips.csv is (default: the package's)"
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args(arguments)

    table = options.folder / "clips.csv"
    with table.open(encoding="utf-8", newline="") as file:
        stored = list(csv.DictReader(file))
    fresh = derive(stored, options.folder)
    found = differences(stored, fresh)
    print(*found, f"{len(stored)} clips, {len(found)} differences", sep="\n")
    if options.check:
        return int(bool(found))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(stored[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(fresh)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
