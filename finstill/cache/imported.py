"""Soft labels that were made elsewhere: by a language model, an API, people's votes, or somebody's published table.

An imported teacher is a cache whose rows are all there already. Nobody can ask it about another text, so its identity
cannot be computed from weights: it is what its owner declares, a name and the settings that it was asked with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finstill.cache.cache import SoftLabelCache, teachers
from finstill.cache.joins import cached_logits, first_positions
from finstill.cache.part import logits_schema
from finstill.cache.soft_labels import SoftLabels
from finstill.errors import InputError
from finstill.files import digest

ROWS_PER_PART = 1 << 20

SAME_ANSWER = 1e-4
"""How far two logits of one text may lie apart: what the cache allows to copies of a row."""


@dataclass(frozen=True)
class Declaration:
    """Who made imported soft labels, as their owner declares it.

    Attributes:
        name: the teacher's, with its version where it has one; a cache has one teacher of a name.
        classes: class names, in the order of the logits.
        settings: digest of what the teacher was asked with, as a prompt; empty where nothing was declared.
        floor: probability that stands for none, as written in the description; empty where none was declared.
    """

    name: str
    classes: tuple[str, ...]
    settings: str = ""
    floor: str = ""

    @property
    def fingerprint(self) -> str:
        """Identifies the teacher. The floor is a way to read a table and no part of it, so that what was exported comes
        back as the same teacher."""
        return digest("imported", self.name, self.settings, *self.classes)

    @property
    def about(self) -> dict[str, str]:
        """What the cache's description says of the teacher."""
        return {"imported": self.name, "settings": self.settings, "floor": self.floor}


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        fingerprint: the teacher's.
        rows: rows of the table.
        repeated: rows whose text has an earlier row, with the same answer.
        known: texts that the cache had already, with the same answer.
        written: texts that are new in the cache.
    """

    fingerprint: str
    rows: int
    repeated: int
    known: int
    written: int


def find_imported(root: str | Path, name: str) -> SoftLabelCache:
    """Return the cache of the imported teacher `name`.

    Raises:
        InputError: no such teacher was imported into the cache; the message lists those that were.
    """
    found = _imported(root)
    if name not in found:
        there = f"; there are {', '.join(found)}" if found else ""
        raise InputError(
            f"no teacher '{name}' was imported into the cache{there}",
            where="teacher.imported",
            remedy=f"Run `finstill cache import TABLE --teacher {name} ...`",
        )
    return found[name]


def import_soft_labels(root: str | Path, declared: Declaration, table: SoftLabels) -> ImportReport:
    """Write the rows of a table to the cache `root`; nothing is written where one of them cannot be used.

    A row that the cache holds already is passed over, so the same table can be imported again, and a table that has
    grown adds what is new.

    Raises:
        InputError: two rows of a text disagree, in the table or with the cache; or the cache knows the teacher's name
            with other classes, settings or floor; or it cannot be written to.
    """
    existing = _imported(root).get(declared.name)
    if existing is not None:
        _require_same(declared, existing)
    first = first_positions(table.keys)
    _require_agreement(table, first)
    keys, logits = table.keys.take(pa.array(first)).combine_chunks(), table.logits[first]
    known = np.zeros(len(keys), bool)
    if existing is not None:
        stored, known = existing.query(
            lambda cached: cached_logits(pa.chunked_array([keys]), cached, len(declared.classes))
        )
        changed = _differ(stored[known], logits[known])
        _require_unchanged(table, first[known][changed], existing)
    new, answers = keys.filter(pa.array(~known)), logits[~known]
    # Sorted, so that the same texts are the same part.
    order = pc.sort_indices(new)
    new, answers = new.take(order), answers[order.to_numpy()]
    cache = existing or SoftLabelCache(root, declared.fingerprint, declared.classes, declared.about)
    for start in range(0, len(new), ROWS_PER_PART):
        cache.append(_part(new[start : start + ROWS_PER_PART], answers[start : start + ROWS_PER_PART]))
    return ImportReport(
        cache.fingerprint, len(table.keys), len(table.keys) - len(first), int(known.sum()), int((~known).sum())
    )


def _imported(root: str | Path) -> dict[str, SoftLabelCache]:
    """Return the caches of all imported teachers, by name.

    Raises:
        InputError: two have the same name, as where two caches were joined.
    """
    found: dict[str, SoftLabelCache] = {}
    for fingerprint in teachers(root):
        cache = SoftLabelCache.open(root, fingerprint)
        name = cache.description().get("about", {}).get("imported")
        if name in found:
            raise InputError(
                f"two imported teachers are called '{name}', {found[name].fingerprint} and {fingerprint}",
                where=str(root),
                remedy="Remove one with finstill cache prune, or import it under another name",
            )
        if name is not None:
            found[name] = cache
    return found


def _require_same(declared: Declaration, existing: SoftLabelCache) -> None:
    about = existing.description()["about"]
    pairs = {
        "classes": (", ".join(existing.labels), ", ".join(declared.classes)),
        "settings": (about["settings"], declared.settings),
        "floor": (about["floor"], declared.floor),
    }
    for what, (stored, given) in pairs.items():
        # What was exported from a cache are logits, to which no floor is given.
        if stored != given and not (what == "floor" and not given):
            raise InputError(
                f"the cache knows the teacher '{declared.name}' with {what} {stored or 'none'}, and {given or 'none'} "
                "was given",
                where=existing.where,
                remedy=f"Give the same, or another name, such as --teacher {declared.name}@2",
            )


def _require_agreement(table: SoftLabels, first: np.ndarray) -> None:
    distinct = table.keys.take(pa.array(first)).combine_chunks()
    of_first = first[pc.index_in(table.keys, distinct).to_numpy()]
    if (found := _differ(table.logits, table.logits[of_first])).any():
        row = int(np.flatnonzero(found)[0])
        raise InputError(
            f"it gives the text of row {of_first[row] + 1} another answer, and {int(found.sum()):,} rows of "
            "the table contradict an earlier one",
            where=table.name,
            row=row + 1,
            remedy="Leave one row for a text, or write the mean of its probabilities",
        )


def _require_unchanged(table: SoftLabels, changed: np.ndarray, existing: SoftLabelCache) -> None:
    """Stop where the cache has another answer for the rows at the positions `changed`."""
    if len(changed):
        raise InputError(
            f"the cache has another answer for this text, as for {len(changed):,} of the table; what is stored "
            f"({existing.where}) never changes",
            where=table.name,
            row=int(changed[0]) + 1,
            remedy="Import the table under another name, or remove the old one first: "
            f"finstill cache prune {existing.fingerprint[:12]}",
        )


def _differ(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return which rows of logits, (rows, classes), are not the same answer: bool, (rows,)."""
    return (np.abs(ours - theirs) > SAME_ANSWER).any(axis=1)


def _part(keys: pa.Array, logits: np.ndarray) -> pa.Table:
    """Return rows of the cache; how many tokens the teacher read is not known."""
    count, classes = logits.shape
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), classes)
    columns = [keys, flat, pa.array(np.zeros(count, np.int32)), pa.array(np.zeros(count, bool))]
    return pa.table(columns, schema=logits_schema(classes))
