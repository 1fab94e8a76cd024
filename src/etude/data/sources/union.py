"""Several collections as one: clips that carry only some of the labels teach one network together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.collection import Collection
from etude.data.pack import Pack, PackOptions
from etude.data.packing import open_pack
from etude.data.sources import pack as packs_of
from etude.data.splits import SPLITS
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


Member = Collection | packs_of.Packed


class JoinedPack:
    """Several packs read as one; no frame is copied.

    Args:
        members: Packs of one front end, by name.
        shared_ids: Equal ids are one clip with the labels of all; else each id gets its member's name in front.

    Attributes:
        index, lengths, manifest: As of a `Pack`.

    Raises:
        DataError: One clip has two different labels.
    """

    def __init__(self, members: Mapping[str, Pack], shared_ids: bool) -> None:
        import pandas as pd

        self.packs = list(members.values())
        tables = [
            pack.index.assign(
                id=pack.index["id"] if shared_ids else name + "/" + pack.index["id"].astype(str),
                member=place,
                row=np.arange(len(pack.index)),
            )
            for place, (name, pack) in enumerate(members.items())
        ]
        table = pd.concat(tables, ignore_index=True)
        self.index = (_one_row_each(table) if table["id"].duplicated().any() else table).drop(columns="start")
        self.lengths = self.index["frames"].to_numpy()
        self.members, self.rows = self.index.pop("member").to_numpy(), self.index.pop("row").to_numpy()
        hashes = "\n".join(pack.manifest["sha256"] for pack in self.packs)
        self.manifest: dict[str, Any] = {"sha256": sha256(hashes.encode()).hexdigest()}

    def clip(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """As `Pack.clip`."""
        return self.packs[self.members[row]].clip(int(self.rows[row]), start, length)


@dataclass(frozen=True)
class Union:
    """Collections side by side, with a pack that reads theirs.

    Args:
        members: By name.
        shared_ids: Whether equal ids in two of them are one clip.
        targets: Of all of them.
        name, title, card, note, extra: What reports say.
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
        """The packs of all members, each made where it is not there yet."""
        packs = {name: open_pack(member, front, options) for name, member in self.members.items()}
        return JoinedPack(packs, self.shared_ids)


def collection(
    sources: Mapping[str, Member] | None = None, packs: Sequence[str] = (), shared_ids: bool = False
) -> Union:
    """Put collections side by side.

    Args:
        sources: Collections by name.
        packs: Folders of packs, besides or instead.
        shared_ids: Equal ids are one clip that has the labels of all (two label sets of one archive). A clip that is
            test in one is test in the union. Else ids are prefixed and stay apart.

    Raises:
        DataError: Fewer than two, or a target that is a label in one and a scalar in another.
    """
    members: dict[str, Member] = dict(sources or {})
    for path in packs:
        packed = packs_of.collection(path)
        members[packed.name if packed.name not in members else f"{packed.name}{len(members)}"] = packed
    if len(members) < 2:
        raise DataError("data=union needs two collections or more; name packs with data.source.packs=[folder,folder]")
    targets: dict[str, dict[str, Any]] = {}
    for name, member in members.items():
        for target, spec in member.targets.items():
            targets[target] = _merged(targets[target], spec, target, name) if target in targets else dict(spec)
    licences: dict[str, int] = {}
    for member in members.values():
        for licence, count in member.extra.get("licences", {}).items():
            licences[licence] = licences.get(licence, 0) + count
    said = list(members.values())
    return Union(
        members, shared_ids, targets,
        name="+".join(members),
        title=" + ".join(member.title for member in said),
        card="\n\n".join(member.card for member in said if member.card),
        note=" ".join(member.note for member in said if member.note),
        extra={"licences": licences} if licences else {},
    )  # fmt: skip


def _merged(one: dict[str, Any], other: dict[str, Any], target: str, name: str) -> dict[str, Any]:
    """One specification that covers two."""
    if one["kind"] != other["kind"]:
        raise DataError(f"data=union: {target} is a {other['kind']} in {name} and a {one['kind']} before it")
    note = one.get("note") or other.get("note", "")
    if one["kind"] == "label":
        return {**one, "classes": sorted({*one["classes"], *other["classes"]}), "note": note}
    return {**one, "low": min(one["low"], other["low"]), "high": max(one["high"], other["high"]), "note": note}


def _one_row_each(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of equal id as one: the first's frames, everybody's labels, and the strictest part."""
    import pandas as pd

    labels = [
        name for name in table.columns if name not in ("id", "split", "start", "frames", "content", "member", "row")
    ]
    several = table[table["id"].duplicated(keep=False)].groupby("id", sort=False)
    clash = several[labels].nunique()
    if (wrong := clash[(clash > 1).any(axis=1)]).size:
        column = wrong.columns[(wrong.iloc[0] > 1)][0]
        raise DataError(f"data=union: clip {wrong.index[0]!r} has two different values of {column}")
    filled = several[labels].first()  # the first that is there
    once = table.drop_duplicates("id").set_index("id")
    once.loc[filled.index, labels] = filled
    if "split" in table.columns:
        rank = pd.Categorical(table["split"], categories=SPLITS, ordered=True).codes
        strictest = pd.Series(rank, index=table["id"]).groupby(level=0).max()
        names = strictest.map(lambda code: SPLITS[code] if code >= 0 else None)
        once["split"] = names.reindex(once.index)
    return once.reset_index()
