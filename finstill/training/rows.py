"""The rows a student or a teacher learns from, joined from the tables of the stages before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.cache.joins import first_positions
from finstill.config.task import Task, task_logits
from finstill.corpus.long_texts import mean_over_windows
from finstill.corpus.provenance import TableProvenance, made_by, require_together
from finstill.corpus.splits import SPLITS
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import tokenizer_identity
from finstill.corpus.tokens import ROWS_PER_CHUNK, text_positions, windows_of
from finstill.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_LABEL = -100
"""Stands for the label of a row that has none: what torch's cross-entropy passes over."""


@dataclass(frozen=True)
class WindowsOfTexts:
    """Which rows are windows of the same text.

    Attributes:
        texts: int64, (rows,), ascending from 0: the text that each row is a window of.
        sizes: int64, (rows,): tokens of each window, special ones left out.
    """

    texts: np.ndarray
    sizes: np.ndarray

    def at(self, positions: np.ndarray) -> WindowsOfTexts:
        """Return the same of the rows at `positions`, texts numbered anew in their order."""
        _, texts = np.unique(self.texts[positions], return_inverse=True)
        return WindowsOfTexts(texts, self.sizes[positions])


@dataclass(frozen=True)
class TrainingRows:
    """Texts to learn from.

    Where long texts are read in windows, a row is a window: it has its text's label, and its own teacher logits.

    Attributes:
        input_ids: token ids of each row.
        labels: int64, (rows,), `NO_LABEL` where a text has none.
        teacher_logits: float32, (rows, classes), over the task's labels; None where none are read.
        windows: which windows are of one text; None where each row is a text.
        provenance: what made the tables that the rows come from; None where they come from none.
        texts: each whole text, large_string, in the order of the rows; None where they are not known.
    """

    input_ids: TokenIds
    labels: np.ndarray
    teacher_logits: np.ndarray | None = None
    windows: WindowsOfTexts | None = None
    provenance: TableProvenance | None = None
    texts: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = {"input_ids": self.input_ids[position], "labels": self.labels[position]}
        if self.teacher_logits is not None:
            item["teacher_logits"] = self.teacher_logits[position]
        return item

    def over_texts(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits of each text, float32, (texts, classes), from those of each row."""
        return logits if self.windows is None else mean_over_windows(logits, self.windows.texts, self.windows.sizes)

    def whole_texts(self) -> TrainingRows:
        """Return a row a text: its first window, its label, and the teacher's logits of the whole text."""
        if self.windows is None:
            return self
        first = np.flatnonzero(np.diff(self.windows.texts, prepend=-1))
        logits = None if self.teacher_logits is None else self.over_texts(self.teacher_logits)
        return TrainingRows(self.input_ids.at(first), self.labels[first], logits, None, self.provenance, self.texts)

    def places_among(self, texts: pa.ChunkedArray) -> np.ndarray:
        """Return where each whole text of these rows stands among `texts`, which hold all of them: int64, (texts,)."""
        assert self.texts is not None
        # As large strings: the characters of a corpus may be more than an offset of `string` can count.
        return pc.index_in(self.texts, texts.cast(pa.large_string()).combine_chunks()).to_numpy()

    def read_by(self, tokenizer: Tokenizer, max_length: int) -> TrainingRows:
        """Return the same texts as this tokenizer reads them; the rows themselves where it is theirs.

        Soft labels belong to texts: a student may read them by another tokenizer than its teacher. Where it reads a
        long text in windows of its own, each window has the teacher's logits of the whole text.

        Args:
            tokenizer: neither pads nor cuts.
            max_length: tokens that are read at once, special ones included.

        Raises:
            InputError: the texts are not known.
        """
        said = self.provenance
        if said is None or (said.tokenizer, said.max_length) == (tokenizer_identity(tokenizer), max_length):
            return self
        if self.texts is None:
            raise InputError("these rows are token ids without their texts, and another tokenizer cannot read them")
        texts = self.whole_texts()
        tokenizer.enable_truncation(max_length)
        parts, owners, sizes = [], [], []
        for start in range(0, len(self.texts), ROWS_PER_CHUNK):
            chunk, ids = self.texts.slice(start, ROWS_PER_CHUNK).to_pylist(), []
            for owner, windows in enumerate(windows_of(chunk, tokenizer, said.long), start):
                for window in windows:
                    ids.append(window.ids)
                    owners.append(owner)
                    sizes.append(window.size)
            parts.append(TokenIds.of(ids))
        tokenizer.no_truncation()
        of = np.array(owners, np.int64)
        whole = len(of) == len(texts)
        return TrainingRows(
            TokenIds.joined(parts),
            texts.labels[of],
            None if texts.teacher_logits is None else texts.teacher_logits[of],
            None if whole else WindowsOfTexts(of, np.array(sizes, np.int64)),
            replace(said, tokenizer=tokenizer_identity(tokenizer), max_length=max_length),
            self.texts,
        )

    def labelled(self) -> TrainingRows:
        """Return the rows that have a label."""
        return self.at(np.flatnonzero(self.labels != NO_LABEL))

    def texts_at(self, positions: np.ndarray) -> TrainingRows:
        """Return the rows of the texts at `positions`, int64, ascending."""
        return self.at(positions if self.windows is None else np.flatnonzero(np.isin(self.windows.texts, positions)))

    def content(self) -> list[bytes]:
        """Return the bytes that tell these rows from others, for a digest."""
        logits = b"" if self.teacher_logits is None else self.teacher_logits.tobytes()
        return [*self.input_ids.content(), self.labels.tobytes(), logits]

    def at(self, positions: np.ndarray) -> TrainingRows:
        """Return the rows at `positions`, int64, ascending where rows are windows."""
        texts = self.texts
        if texts is not None:
            kept = positions if self.windows is None else np.unique(self.windows.texts[positions])
            texts = texts.take(kept)
        return TrainingRows(
            self.input_ids.at(positions),
            self.labels[positions],
            None if self.teacher_logits is None else self.teacher_logits[positions],
            None if self.windows is None else self.windows.at(positions),
            self.provenance,
            texts,
        )


def training_rows(
    corpus: Path, tokens: Path, task: Task, teacher_logits: Path | None = None
) -> dict[str, TrainingRows]:
    """Return the rows of each split, in the corpus's order; those without a label count through their soft labels.

    Args:
        corpus: Parquet file of one row a text.
        tokens: Parquet file of one row a window of a text, in the corpus's order.
        teacher_logits: Parquet file with one row for each key of `tokens`, in whichever order; it may hold more. Texts
            that it says were left out, since an imported teacher has no row of them, are no rows.
        task: gives labels their numbers, and the teacher's classes their labels.

    Raises:
        InputError: the tables do not belong together: one was made again and the others were not, by another tokenizer
            or up to another length, or a text has no logits, or has them twice.
    """
    provenance = TableProvenance.read(tokens)
    columns = pq.read_table(corpus, columns=["key", "text", "label", "split"])
    ids = pq.read_table(tokens, columns=["key", "text_key", "input_ids", "size"])
    texts = text_positions(columns["key"], ids["text_key"], tokens)
    labels = pc.index_in(columns["label"], pa.array(task.labels)).fill_null(NO_LABEL).to_numpy().astype(np.int64)
    logits, with_logits = None, np.ones(len(ids), bool)
    if teacher_logits is not None:
        said = TableProvenance.read(teacher_logits)
        require_together(teacher_logits, said, tokens, provenance, f"Materialize {made_by(teacher_logits)} again")
        provenance = said
        logits, with_logits = _logits_of(ids["key"], tokens, teacher_logits, task)
    windows = None if len(texts) == len(columns) else WindowsOfTexts(texts, ids["size"].to_numpy().astype(np.int64))
    rows = TrainingRows(
        TokenIds.of_column(ids["input_ids"]), labels[texts], logits, windows, provenance, _texts(columns)
    )
    splits = pc.index_in(columns["split"], pa.array(SPLITS)).to_numpy()[texts]
    return {split: rows.at(np.flatnonzero((splits == number) & with_logits)) for number, split in enumerate(SPLITS)}


def with_augmented(train: TrainingRows, augmented: Path, teacher_logits: Path, task: Task) -> TrainingRows:
    """Return the rows of `train` and, after them, those of the augmented corpus: rows without a label.

    Args:
        train: with teacher logits over the task's labels.
        augmented: Parquet file of one row a text.
        teacher_logits: Parquet file with one row for each key of `augmented`, in whichever order.

    Raises:
        InputError: the tables do not belong together; see `training_rows`.
    """
    assert train.teacher_logits is not None
    said = TableProvenance.read(augmented)
    require_together(
        augmented,
        said,
        teacher_logits,
        TableProvenance.read(teacher_logits),
        "Materialize augmented_corpus and teacher_logits again",
    )
    texts = pq.read_table(augmented, columns=["key", "text", "input_ids"])
    windows = train.windows
    if windows is not None:
        # A variant is never longer than a window.
        windows = WindowsOfTexts(
            np.concatenate([windows.texts, windows.texts.max() + 1 + np.arange(len(texts))]),
            np.concatenate([windows.sizes, np.ones(len(texts), np.int64)]),
        )
    return TrainingRows(
        TokenIds.joined([train.input_ids, TokenIds.of_column(texts["input_ids"])]),
        np.concatenate([train.labels, np.full(len(texts), NO_LABEL)]),
        np.concatenate([train.teacher_logits, _logits_of(texts["key"], augmented, teacher_logits, task)[0]]),
        windows,
        train.provenance,
        None if train.texts is None else pa.concat_arrays([train.texts, _texts(texts)]),
    )


def _texts(table: pa.Table) -> pa.Array:
    # Their characters may be more than an offset of `string` can count.
    return table["text"].cast(pa.large_string()).combine_chunks()


def read_teacher_labels(schema: pa.Schema) -> list[str]:
    """Return the class names that stand in the metadata of a table of teacher logits."""
    return schema.metadata[b"labels"].decode().split("\n")


def read_left_out(schema: pa.Schema) -> int:
    """Return how many texts a table of teacher logits leaves out, since an imported teacher has no row of them."""
    return int(schema.metadata.get(b"left_out", 0))


def _logits_of(keys: pa.ChunkedArray, tokens: Path, teacher_logits: Path, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's logits of `keys` over the task's labels, and which of them were not left out.

    Returns:
        float32, (keys, labels), undefined where a text was left out; bool, (keys,).

    Raises:
        InputError: a key has two rows in the table, or none and is not among those that were left out.
    """
    table = pq.read_table(teacher_logits)
    first = first_positions(table["key"])
    if len(first) < len(table):
        doubled = np.setdiff1d(np.arange(len(table)), first)[0]
        raise _of_other_texts(f"the key {_hex(table['key'][doubled])} stands in it twice", teacher_logits)
    positions = pc.index_in(keys, table["key"].combine_chunks())
    if positions.null_count not in (0, read_left_out(table.schema)):
        missing = keys.filter(pc.is_null(positions))[0]
        raise _of_other_texts(f"it has no row for the key {_hex(missing)}, which stands in {tokens}", teacher_logits)
    teacher_labels = read_teacher_labels(table.schema)
    flat = table["logits"].take(positions.fill_null(0)).combine_chunks().flatten().to_numpy()
    if len(TableProvenance.read(teacher_logits).teachers) > 1:
        # The mean of several teachers is over the task's labels, their classes having been placed under them.
        task = task.model_copy(update={"teacher_classes": {}})
    logits = task_logits(flat.reshape(len(keys), len(teacher_labels)), task, teacher_labels)
    return logits, pc.is_valid(positions).to_numpy()


def _of_other_texts(problem: str, teacher_logits: Path) -> InputError:
    return InputError(problem, where=teacher_logits, remedy=f"Materialize {made_by(teacher_logits)} again")


def _hex(key: pa.Scalar) -> str:
    return key.as_py().hex()
