"""A teacher whose soft labels were made elsewhere: no weights and no graph, only rows in the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from finstill.cache.cache import SoftLabelCache
from finstill.corpus.text import KEY_BYTES
from finstill.corpus.tokenizer import TOKENIZER_FILE
from finstill.errors import InputError
from finstill.files import read_json, standing_folder, whole_file, whole_folder, write_json

DESCRIPTION_FILE = "teacher.json"

EXAMPLE_CHARACTERS = 80


@dataclass(frozen=True)
class ImportedTeacher:
    """An imported teacher, as the stages after it know it.

    Attributes:
        folder: holds this description and, for the first teacher, the tokenizer that reads the texts.
        fingerprint: of its rows in the cache.
        labels: class names in the order of its logits.
        max_length: tokens a text is cut at, for the students.
        source: the name it was imported under.
        trained_on: data sets it was trained on.
    """

    folder: Path
    fingerprint: str
    labels: tuple[str, ...]
    max_length: int
    source: str
    trained_on: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> ImportedTeacher:
        folder = standing_folder(folder)
        values = read_json(folder / DESCRIPTION_FILE)
        lists = {name: tuple(values[name]) for name in ("labels", "trained_on")}
        return cls(**{**values, "folder": folder, **lists})


def describe_imported(
    cache: SoftLabelCache,
    name: str,
    folder: Path,
    *,
    max_length: int,
    trained_on: Sequence[str],
    tokenizer: Tokenizer | None = None,
) -> ImportedTeacher:
    """Write down in `folder`, whole or not at all, which imported teacher a profile distils.

    Args:
        cache: its rows.
        name: what it was imported as.
        max_length, trained_on: see `ImportedTeacher`.
        tokenizer: the one that reads the texts.
    """
    teacher = ImportedTeacher(folder, cache.fingerprint, cache.labels, max_length, name, tuple(trained_on))
    with whole_folder(folder) as unfinished:
        if tokenizer is not None:
            tokenizer.save(str(unfinished / TOKENIZER_FILE))
        write_json(unfinished / DESCRIPTION_FILE, {**asdict(teacher), "folder": None})
    return teacher


def missing_keys(
    tables: Mapping[Path, Path], imported: Mapping[str, SoftLabelCache], missing: Literal["stop", "leave_out"]
) -> pa.Array:
    """Return the keys of the texts that an imported teacher has no row of, each once: binary(16).

    Args:
        tables: token tables, each with the table that its texts stand in.
        imported: the caches of imported teachers, by name.
        missing: whether such a text of a corpus stops the run or is left out.

    Raises:
        InputError: a text has no row, and is not to be left out; or it is an augmented one, or no text of a split has a
            row of each teacher.
    """
    found = [pa.array([], pa.binary(KEY_BYTES))]
    for ids, texts in tables.items():
        keys = pq.read_table(ids, columns=["key"])["key"]
        of_table = []
        for name, cache in imported.items():
            absent = keys.take(pa.array(cache.unseen(keys))).combine_chunks()
            if not len(absent):
                continue
            if ids == texts:
                raise InputError(
                    f"the imported teacher '{name}' has no row of {len(absent):,} of {len(keys):,} augmented texts, "
                    "and cannot be asked about them",
                    where="augmentation.variants_per_text",
                    remedy=f"Set it to 0; or have the teacher answer for the column 'text' of {texts}, and import that",
                )
            require_enough(name, cache, texts, absent, missing)
            of_table.append(absent)
        found += of_table
        if len(of_table) < 2:
            continue
        # Each has rows of some texts of a split, and yet no text of it may have a row of all.
        if empty := _empty_split(pq.read_table(texts, columns=["key", "split"]), pa.concat_arrays(of_table)):
            raise InputError(
                f"each of the {empty[1]:,} {empty[0]} texts lacks a row of one of the imported teachers "
                f"{list(imported)}, and is left out for all",
                where="teacher.ensemble",
                remedy="Import rows of the same texts from each of them",
            )
    return pa.concat_arrays(found).unique()


def write_without(tokens: Path, keys: pa.Array, path: Path) -> None:
    """Write a token table to `path` without the rows of `keys`."""
    with (
        pq.ParquetFile(tokens) as source,
        whole_file(path) as unfinished,
        pq.ParquetWriter(unfinished, source.schema_arrow) as writer,
    ):
        for batch in source.iter_batches():
            writer.write_batch(batch.filter(pc.invert(pc.is_in(batch["key"], keys))))


def require_enough(
    name: str, cache: SoftLabelCache, corpus: Path, absent: pa.Array, missing: Literal["stop", "leave_out"]
) -> None:
    """Stop where texts must not be left out of a corpus, or where none of a split would be left.

    Args:
        name, cache: the imported teacher's.
        corpus: Parquet file of one row a text.
        absent: keys of the texts that the teacher has no row of.
        missing: whether such a text stops the run or is left out.

    Raises:
        InputError: names the number of these texts and the first of them, or the split.
    """
    if not len(absent):
        return
    texts = pq.read_table(corpus, columns=["key", "text", "split"])
    without = texts.filter(pc.is_in(texts["key"], absent))
    if missing == "stop":
        raise InputError(
            f"the imported teacher '{name}' has no row of {len(without):,} of {len(texts):,} texts, as of "
            f"“{without['text'][0].as_py()[:EXAMPLE_CHARACTERS]}”",
            where=cache.where,
            remedy="Import their rows, or set teacher.missing to leave_out to train and evaluate without them",
        )
    if empty := _empty_split(texts, absent):
        raise InputError(
            f"the imported teacher '{name}' has no row of any of the {empty[1]:,} {empty[0]} texts",
            where=cache.where,
            remedy="Import rows of some of them too: a text's split is written beside it by the asset corpus",
        )


def _empty_split(texts: pa.Table, absent: pa.Array) -> tuple[str, int] | None:
    """Return the name and the number of texts of a split of which all keys are absent, or None."""
    without = texts.filter(pc.is_in(texts["key"], absent))
    counts, left_out = (Counter(table["split"].to_pylist()) for table in (texts, without))
    return next(((split, count) for split, count in counts.items() if left_out[split] == count), None)
