"""Record of the clips on which weights were ever trained, and search for these clips in another collection.

A score is optimistic if the weights were trained on the scored clips, also in an earlier run from which the weights
were copied. The record of a run therefore contains the clips of all earlier runs. It is stored in every checkpoint and
every exported network.

A clip is recognised by three keys:

- The **sound** is the hash of the file, or of the array of a clip without audio. Frames of audio are not hashed,
  because they depend on the front end. A copy with another encoding or other tags has another hash and is not found.
- The **id** counts only between collections that declare the same space of ids, such as the tracks of FMA. The clip
  `12` of one table is not the clip `12` of another.
- The **group** (artist) counts between these collections too. Within the searched collection, a group with a clip that
  is recognised by its sound or id is recognised as well.

Keys are hashes of 64 bits, so that the record of 100,000 clips has less than 3 MB. Among 100,000 recorded and 100,000
searched clips, the probability of a false match is less than 1e-8.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.partition import SPLITS
from etude.data.splits import group_codes
from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

KEY = np.dtype("<i8")
NONE = np.empty(0, KEY)
MISSING = 0  # key of a clip whose sound, id space or group is unknown
Plain = dict[str, Any]


@dataclass(frozen=True)
class ClipKeys:
    """Keys of the clips of a collection.

    Args:
        sound: Hash of the sound of each clip (N,), int64, 0 if it is unknown.
        id: Hash of id space and id of each clip (N,), 0 if the collection declares no id space.
        group: Hash of id space and group of each clip (N,), 0 if one of them is unknown.
        local_group: Number of the group of each clip within the collection (N,).
    """

    sound: np.ndarray
    id: np.ndarray
    group: np.ndarray
    local_group: np.ndarray

    @classmethod
    def of_clips(cls, index: pd.DataFrame, id_space: str | None) -> ClipKeys:
        """Return the keys of the clips of a pack.

        Args:
            index: Table of the pack with `id`, `group` and, if known, `sound_hash`. In a union, `id_space` is the id
                space of the member of each clip and `source_id` its id there.
            id_space: Id space of the collection, for an index without `id_space`.
        """
        spaces = list(index["id_space"]) if "id_space" in index else [id_space] * len(index)
        ids = index["source_id" if "source_id" in index else "id"]
        sounds = index["sound_hash"] if "sound_hash" in index else [None] * len(index)
        return cls(
            _keys(("sound", sound) if _is_text(sound) else None for sound in sounds),
            _keys(("id", space, clip) if _is_text(space) else None for space, clip in zip(spaces, ids, strict=True)),
            _keys(
                ("group", space, group) if _is_text(space) and _is_text(group) else None
                for space, group in zip(spaces, index["group"], strict=True)
            ),
            group_codes(index),
        )


@dataclass(frozen=True)
class Overlap:
    """Clips of a collection that earlier runs used.

    Args:
        trained: Clips on which the weights were trained (N,), bool.
        same_group: Other clips of a group that has a clip on which the weights were trained (N,), bool.
        validated: Clips of the validation split of an earlier run (N,), bool.
        complete: Whether the collection contains all clips on which the weights were trained. Only then are all of
            their groups known.
    """

    trained: np.ndarray
    same_group: np.ndarray
    validated: np.ndarray
    complete: bool


@dataclass(frozen=True)
class TrainingRecord:
    """Clips on which weights were trained.

    Args:
        train: Sorted keys of sounds, ids and groups of the training clips (M,), int64.
        val: Sorted keys of the sounds and ids of the validation clips, which may have selected an epoch.
        runs: Name of each run, name of its data, and numbers of its training and validation clips.
        unknown: Descriptions of weights whose training clips are not recorded.
    """

    train: np.ndarray = field(default_factory=lambda: NONE)
    val: np.ndarray = field(default_factory=lambda: NONE)
    runs: tuple[Plain, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, keys: ClipKeys, splits: np.ndarray, name: str, data: str) -> TrainingRecord:
        """Return the record of one run without earlier runs.

        Args:
            keys: Keys of the clips.
            splits: Split of each clip (N,).
            name: Name of the run.
            data: Name of its collection.
        """
        train, val = splits == "train", splits == "val"
        run = {"name": name, "data": data, "clips": int(train.sum()), "validation_clips": int(val.sum())}
        return cls(
            _sorted_union(keys.sound[train], keys.id[train], keys.group[train]),
            _sorted_union(keys.sound[val], keys.id[val]),
            (run,),
        )

    def __bool__(self) -> bool:
        """Whether the record has any run or any weights with unknown clips."""
        return bool(self.runs or self.unknown)

    def merged(self, other: TrainingRecord) -> TrainingRecord:
        """Return the union of two records."""
        return TrainingRecord(
            _sorted_union(self.train, other.train),
            _sorted_union(self.val, other.val),
            self.runs + tuple(run for run in other.runs if run not in self.runs),
            tuple(dict.fromkeys(self.unknown + other.unknown)),
        )

    def find(self, keys: ClipKeys) -> Overlap:
        """Return the clips of a collection that the recorded runs used.

        Args:
            keys: Keys of the clips of the collection (N).
        """
        trained = _is_in(keys.sound, self.train) | _is_in(keys.id, self.train)
        groups = np.isin(keys.local_group, keys.local_group[trained]) | _is_in(keys.group, self.train)
        validated = _is_in(keys.sound, self.val) | _is_in(keys.id, self.val)
        known = np.concatenate([keys.sound, keys.id, keys.group])
        return Overlap(trained, groups & ~trained, validated, complete=bool(np.isin(self.train, known).all()))

    def to_plain(self) -> Plain:
        """Return plain values for a checkpoint or a JSON file. Keys are encoded as base64."""
        return {
            "train": base64.b64encode(self.train.astype(KEY).tobytes()).decode(),
            "val": base64.b64encode(self.val.astype(KEY).tobytes()).decode(),
            "runs": [dict(run) for run in self.runs],
            "unknown": list(self.unknown),
        }

    @classmethod
    def from_plain(cls, value: Any, name: str) -> TrainingRecord:
        """Return the record of plain values.

        Args:
            value: Values as returned by `to_plain`, from an untrusted file.
            name: Name of the file, for the error message.

        Raises:
            UserError: The values are not a record.
        """
        try:
            runs = tuple(
                {key: str(run[key]) for key in ("name", "data")}
                | {key: int(run[key]) for key in ("clips", "validation_clips")}
                for run in value["runs"]
            )
            train, val = (
                np.unique(np.frombuffer(base64.b64decode(value[split], validate=True), KEY)) for split in SPLITS[:2]
            )
            return cls(train, val, runs, tuple(map(str, value["unknown"])))
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise UserError(
                f"{name}: the record of its training clips is damaged, so it cannot be checked whether they are in the "
                "test split; restore the file from a copy, or train the run again"
            ) from error


def stored_record(recipe: Mapping[str, Any], name: str, parts: Sequence[str] = ("earlier", "own")) -> TrainingRecord:
    """Return the record of all training in the recipe of a checkpoint.

    Args:
        recipe: Recipe of a network. Its `training_record` has the records of the run (`own`) and of `earlier` runs.
        name: Name of the file, for messages.
        parts: Names of the records that are read.

    Returns:
        The union of these records. If the recipe has none, the weights are of unknown origin.

    Raises:
        UserError: The record is damaged.
    """
    stored = recipe.get("training_record")
    if stored is None:
        return TrainingRecord(unknown=(f"{name}, from a version that did not record training clips",))
    if not isinstance(stored, dict):
        stored = {}
    record = TrainingRecord()
    for part in parts:
        record = record.merged(TrainingRecord.from_plain(stored.get(part), name))
    return record


def _keys(parts: Iterable[tuple[Any, ...] | None]) -> np.ndarray:
    """Return the 64-bit hash of each tuple of texts, (N,), int64. A missing tuple has the key 0."""
    return np.array([MISSING if part is None else _hash(part) for part in parts], dtype=KEY)


def _hash(parts: tuple[Any, ...]) -> int:
    """Return a hash of texts that is not 0."""
    digest = blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=KEY.itemsize).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that is not empty."""
    return isinstance(value, str) and value != ""


def _is_in(keys: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return whether each key is known and recorded, (N,), bool."""
    return np.isin(keys, recorded) & (keys != MISSING)


def _sorted_union(*keys: np.ndarray) -> np.ndarray:
    """Return the distinct known keys in increasing order."""
    union = np.unique(np.concatenate(keys))
    return union[union != MISSING].astype(KEY)
