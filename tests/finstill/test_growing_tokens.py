"""A corpus that grows: its known texts are not tokenized again, and the table is as if it were made anew."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from finstill.corpus import tokens
from finstill.corpus.parts import text_keys
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.teacher.checkpoint import resolve_checkpoint

LONG = " ".join(f"Sentence {i} says that sales rose." for i in range(12))


class Growing:
    """The files of a corpus and of its tokens; texts that are tokenized are written down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.corpus, self.path, self.anew = (folder / f"{name}.parquet" for name in ("corpus", "tokens", "anew"))
        self.tokenized: list[str] = []
        windows_of = tokens.windows_of
        monkeypatch.setattr(tokens, "ROWS_PER_CHUNK", 3)
        monkeypatch.setattr(
            tokens, "windows_of", lambda texts, *rest: self.tokenized.extend(texts) or windows_of(texts, *rest)
        )

    def write(self, *texts: str) -> None:
        keys = text_keys(pa.array(texts))
        pq.write_table(pa.table({"key": keys, "text": texts}).sort_by("key"), self.corpus)

    def tokenize(self, max_length: int = 32) -> None:
        """Tokenize what is new, and hold it against the table and the report of a run from nothing."""
        self.anew.unlink(missing_ok=True)
        expected = tokenize_corpus(self.corpus, self.tokenizer(max_length), self.anew, "windows")
        self.tokenized.clear()
        report = tokenize_corpus(self.corpus, self.tokenizer(max_length), self.path, "windows")
        assert report == expected
        assert pq.read_table(self.path).equals(pq.read_table(self.anew), check_metadata=True)

    @staticmethod
    def tokenizer(max_length: int) -> Tokenizer:
        return load_tokenizer(resolve_checkpoint("embedded").folder, max_length)


@pytest.fixture
def growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Growing:
    growing = Growing(tmp_path, monkeypatch)
    growing.write(LONG, "☃ is unknown", *(f"headline {i}" for i in range(20)))
    growing.tokenize()
    return growing


def test_only_new_texts_are_tokenized(growing: Growing) -> None:
    growing.tokenize()
    assert growing.tokenized == []
    new = [f"new {i}" for i in range(5)]
    growing.write(LONG, f"{LONG} And more.", "☃ is unknown", *new, *(f"headline {i}" for i in range(4, 20)))
    growing.tokenize()
    assert sorted(growing.tokenized) == sorted([*new, f"{LONG} And more."])


def test_another_length_tokenizes_all(growing: Growing) -> None:
    growing.tokenize(16)
    assert len(growing.tokenized) == 22


def test_a_damaged_table_is_made_anew(growing: Growing) -> None:
    growing.path.write_bytes(growing.path.read_bytes()[:-8])
    growing.tokenize()
    assert len(growing.tokenized) == 22
