"""What made a table of tokens or of logits: a JSON value in its own file, so that only what belongs together is joined.

Parquet keeps it under one key of the schema's metadata. It is read without reading a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.corpus.tokenizer import read_tokenizer, tokenizer_identity
from finstill.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

METADATA_KEY = b"finstill"

LongTexts = Literal["cut", "windows"]

DIGITS_SHOWN = 12


@dataclass(frozen=True)
class TableProvenance:
    """How the texts of a table became token ids, and whose logits stand in it.

    Attributes:
        tokenizer: identity of the tokenizer's behaviour; see `finstill.corpus.tokenizer.tokenizer_identity`.
        max_length: tokens that are read at once.
        long: what becomes of a longer text: it is cut, or read in windows.
        teachers: fingerprints of the teachers, the first one first; empty where there are no logits.
    """

    tokenizer: str
    max_length: int
    long: LongTexts
    teachers: tuple[str, ...] = ()

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer, long: LongTexts) -> TableProvenance:
        """Return that of a table of token ids by `tokenizer`, which is set to cut at the tokens read at once."""
        cut = tokenizer.truncation
        assert cut is not None
        return cls(tokenizer_identity(tokenizer), cut["max_length"], long)

    @classmethod
    def read(cls, table: Path) -> TableProvenance:
        """Return what the Parquet file `table` says of itself.

        Raises:
            InputError: it says nothing.
        """
        said = (pq.read_schema(table).metadata or {}).get(METADATA_KEY)
        if said is None:
            raise says_nothing(table, made_by(table))
        return cls.from_dict(json.loads(said))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableProvenance:
        """Return what `asdict` took apart."""
        return cls(**{**values, "teachers": tuple(values["teachers"])})

    def of_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return `schema` with this in its metadata."""
        return schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: json.dumps(asdict(self))})

    def __str__(self) -> str:
        parts = [
            f"tokenizer {self.tokenizer[:DIGITS_SHOWN]}",
            f"max_length {self.max_length}",
            f"long {self.long}",
            *(f"teacher {teacher[:DIGITS_SHOWN]}" for teacher in self.teachers),
        ]
        return ", ".join(parts)


def says_nothing(where: Path, asset: str) -> InputError:
    """Return the error of a file that does not say what made it; `asset` is what makes such files."""
    return InputError(
        "it does not say by which tokenizer its texts were read and up to which length: an older version made it",
        where=where,
        remedy=f"Materialize {asset} again",
    )


def made_by(table: Path) -> str:
    """Return the asset that makes a table. Its file bears the name, but those of a corpus in a folder of its own."""
    if table.parent.name == "out_of_domain":
        return "out_of_domain"
    return {"augmented": "augmented_corpus"}.get(table.stem, table.stem)


def require_together(
    path: Path, provenance: TableProvenance, other_path: Path, other: TableProvenance, remedy: str
) -> None:
    """Refuse to join two files whose texts were not read alike, or that hold the logits of different teachers.

    Args:
        path, other_path: of the files, or of the folders that hold what is joined.
        remedy: what makes them belong together.

    Raises:
        InputError: names both, and what each says.
    """
    both_taught = provenance.teachers and other.teachers
    if replace(provenance, teachers=()) != replace(other, teachers=()) or (
        both_taught and provenance.teachers != other.teachers
    ):
        raise InputError(
            f"it does not belong to {other_path}: the one says '{provenance}', the other '{other}'",
            where=path,
            remedy=remedy,
        )


def require_tokens_of(tokens: Path, folder: Path, max_length: int | None, remedy: str) -> None:
    """Refuse a table of token ids that a model does not read: of another tokenizer, or of another length.

    Args:
        folder: the model's, with its tokenizer.
        max_length: tokens that the model reads at once; None where it reads as many as it is given.
        remedy: what makes them belong together.

    Raises:
        InputError: names the table and the folder, and what each says; or the table says nothing.
    """
    provenance = TableProvenance.read(tokens)
    reads = replace(
        provenance,
        tokenizer=tokenizer_identity(read_tokenizer(folder)),
        max_length=max_length or provenance.max_length,
    )
    require_together(tokens, provenance, folder, reads, remedy)
