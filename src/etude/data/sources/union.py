"""Unions of several collections, for joint training on partially labelled clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.clip_statistics import PropertiesFront
from etude.audio.frontend import FrontEnd
from etude.data.audio_files import read_properties, read_sound
from etude.data.collection import RESERVED, Collection
from etude.data.pack import Pack, PackOptions
from etude.data.packing import open_pack
from etude.data.partition import SPLITS
from etude.data.sources import pack as packs_of
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


Member = Collection | packs_of.Packed


class JoinedPack:
    """Reader of several packs as one, without copies of frames.

    Args:
        members: Packs of one front end, by name.
        shared_ids: Merge clips with equal ids into one clip with the labels of all of them. False prefixes each id with
            the pack's name.

    Attributes:
        index, lengths, manifest: As in `Pack`.

    Raises:
        DataError: A clip has two different labels.
    """

    def __init__(self, members: Mapping[str, Pack], shared_ids: bool) -> None:
        import pandas as pd

        self.packs = list(members.values())
        tables = [
            _with_source_ids(pack).assign(
                id=pack.index["id"] if shared_ids else name + "/" + pack.index["id"].astype(str),
                member=number,
                row=np.arange(len(pack.index)),
            )
            for number, (name, pack) in enumerate(members.items())
        ]
        table = pd.concat(tables, ignore_index=True)
        self.index = (_merge_rows(table) if table["id"].duplicated().any() else table).drop(columns="start")
        self.lengths = self.index["frames"].to_numpy()
        self.members, self.rows = self.index.pop("member").to_numpy(), self.index.pop("row").to_numpy()
        hashes = "\n".join(pack.manifest["sha256"] for pack in self.packs)
        self.manifest: dict[str, Any] = {"sha256": sha256(hashes.encode()).hexdigest()}

    def clip(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Return the frames of a clip, same as `Pack.clip`."""
        return self.packs[self.members[row]].clip(int(self.rows[row]), start, length)


@dataclass(frozen=True)
class Union:
    """Union of collections, with a pack that reads from the packs of the members.

    Args:
        members: Collections by name.
        shared_ids: Whether equal ids in two collections are the same clip.
        targets: Targets of all collections.
        name, title, card, note, extra: As in `Collection`.
    """

    members: dict[str, Member]
    shared_ids: bool
    targets: dict[str, dict[str, Any]]
    name: str
    title: str
    card: str
    note: str
    extra: dict[str, Any] = field(default_factory=dict)

    def pack(self, front: FrontEnd, options: PackOptions) -> JoinedPack:
        """Return a joined pack of all members, and prepare missing or outdated packs first."""
        packs = {name: open_pack(member, front, options) for name, member in self.members.items()}
        return JoinedPack(packs, self.shared_ids)


def collection(
    sources: Mapping[str, Member] | None = None, packs: Sequence[str] = (), shared_ids: bool = False
) -> Union:
    """Return the union of collections.

    Args:
        sources: Collections by name.
        packs: Folders of packs, in addition to or instead of `sources`.
        shared_ids: Merge clips with equal ids into one clip with the labels of all of them, such as two label sets of
            one archive. A test clip of one collection is a test clip of the union. False prefixes ids and keeps clips
            separate.

    Raises:
        DataError: There are fewer than two collections, or a target is a label in one and a scalar in another.
    """
    members: dict[str, Member] = dict(sources or {})
    for path in packs:
        packed = packs_of.collection(path)
        members[packed.name if packed.name not in members else f"{packed.name}{len(members)}"] = packed
    if len(members) < 2:
        raise DataError("data=union needs two collections or more; set packs with data.source.packs=[folder,folder]")
    targets: dict[str, dict[str, Any]] = {}
    for name, member in members.items():
        for target, spec in member.targets.items():
            targets[target] = _merge_specs(targets[target], spec, target, name) if target in targets else dict(spec)
    licences: dict[str, int] = {}
    for member in members.values():
        for licence, count in member.extra.get("licences", {}).items():
            licences[licence] = licences.get(licence, 0) + count
    collections = list(members.values())
    return Union(
        members, shared_ids, targets,
        name="+".join(members),
        title=" + ".join(member.title for member in collections),
        card="\n\n".join(member.card for member in collections if member.card),
        note=" ".join(member.note for member in collections if member.note),
        extra={"licences": licences} if licences else {},
    )  # fmt: skip


def _with_source_ids(pack: Pack) -> pd.DataFrame:
    """Return the table of a pack with the id of each clip in its own collection, and the space of these ids."""
    if "source_id" in pack.index.columns:  # the pack of a union
        return pack.index
    id_space = pack.manifest.get("origin", {}).get("collection", {}).get("id_space")
    return pack.index.assign(source_id=pack.index["id"], id_space=id_space)


def has_audio(source: Any) -> bool:
    """Return whether all clips of a source are audio files."""
    if isinstance(source, Union):
        return all(has_audio(member) for member in source.members.values())
    return isinstance(source, Collection) and source.reader is read_sound


def open_properties(source: Any, options: PackOptions) -> Pack:
    """Return the pack with the properties of all audio files of a source, and prepare it if it is missing.

    Raises:
        DataError: Too many files are skipped, or the pack is missing and cannot be written.
    """

    def with_reader(member: Any) -> Any:
        if isinstance(member, Union):
            return replace(member, members={name: with_reader(other) for name, other in member.members.items()})
        return replace(member, reader=partial(read_properties, longest=options.longest))

    return open_pack(with_reader(source), PropertiesFront(), options)


def _merge_specs(first: dict[str, Any], second: dict[str, Any], target: str, name: str) -> dict[str, Any]:
    """Return one specification of a target that includes both given specifications."""
    if first["kind"] != second["kind"]:
        raise DataError(
            f"data=union: {target} is a {second['kind']} in {name} and a {first['kind']} in a previous collection"
        )
    note = first.get("note") or second.get("note", "")
    if first["kind"] == "label":
        return {**first, "classes": sorted({*first["classes"], *second["classes"]}), "note": note}
    return {**first, "low": min(first["low"], second["low"]), "high": max(first["high"], second["high"]), "note": note}


def _merge_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Merge rows with equal ids into one row with the first frames, the labels of all, and the strictest split."""
    import pandas as pd

    labels = [name for name in table.columns if name == "group" or name not in RESERVED]
    duplicates = table[table["id"].duplicated(keep=False)].groupby("id", sort=False)
    value_counts = duplicates[labels].nunique()
    if (conflicts := value_counts[(value_counts > 1).any(axis=1)]).size:
        column = conflicts.columns[(conflicts.iloc[0] > 1)][0]
        raise DataError(f"data=union: clip {conflicts.index[0]!r} has two different values of {column}")
    filled = duplicates[labels].first()  # the first value that is not missing
    merged = table.drop_duplicates("id").set_index("id")
    merged.loc[filled.index, labels] = filled
    if "split" in table.columns:
        rank = pd.Categorical(table["split"], categories=SPLITS, ordered=True).codes
        strictest = pd.Series(rank, index=table["id"]).groupby(level=0).max()
        names = strictest.map(lambda code: SPLITS[code] if code >= 0 else None)
        merged["split"] = names.reindex(merged.index)
    return merged.reset_index()
