"""Building the augmented corpus: variants of train rows as texts, each once and none of them in the corpus."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.augment.neighbours import nearest_pieces
from finstill.augment.variants import Texts, Variants, make_variants
from finstill.augment.vocabulary import Vocabulary, read_vocabulary
from finstill.config.profile import Augmentation
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.provenance import TableProvenance, require_together
from finstill.corpus.shingles import Shingles
from finstill.corpus.text import KEY_BYTES, normalise, text_key
from finstill.corpus.tokens import TOKENS_SCHEMA, text_positions, tokenize
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.progress import progress_logger

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AUGMENTED_SCHEMA = pa.schema(
    [
        *TOKENS_SCHEMA,
        pa.field("text", pa.string(), nullable=False),
        pa.field("origin", pa.binary(KEY_BYTES), nullable=False),
    ]
)
"""A token table's columns, so that the teacher pass takes it as it is, beside the text and the key of the train row
that it was made from."""

VARIANTS_PER_CHUNK = 16384

logger = logging.getLogger(__name__)


@dataclass
class AugmentationReport:
    """What became of the variants.

    Attributes:
        origins: train rows they were made from.
        made: variants made.
        kept: texts in the augmented corpus.
        dropped: variants left out, by reason.
    """

    origins: int = 0
    made: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def augment_corpus(
    corpus: Path, tokens: Path, tokenizer: Tokenizer, embeddings: np.ndarray, settings: Augmentation, path: Path
) -> AugmentationReport:
    """Write variants of the corpus's train rows to the Parquet file `path`, whole or not at all.

    A variant becomes a text: its ids are decoded, and what is kept are the ids of that text, so that the teacher's
    answer belongs to a text here as everywhere. One whose ids a row of the corpus has, in whichever split, or another
    variant, is left out, and so is a near-duplicate of a validation or test text.

    Memory holds the corpus's ids and some 80 bytes for each of its rows and each variant that is kept, beside a chunk
    of variants.

    Args:
        corpus: Parquet file of one row a text.
        tokens: Parquet file of one row a window of a text, in the corpus's order.
        embeddings: the teacher's word embeddings, float32, (vocabulary, width).

    Raises:
        InputError: pieces are to be masked, and the tokenizer has no mask token; or the tokens are not this
            tokenizer's.
    """
    said = TableProvenance.read(tokens)
    provenance = TableProvenance.of_tokenizer(tokenizer, said.long)
    require_together(tokens, said, path, provenance, "Materialize tokens again")
    report = AugmentationReport()
    schema = provenance.of_schema(AUGMENTED_SCHEMA)
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        if settings.variants_per_text:
            for chunk in _chunks(corpus, tokens, tokenizer, embeddings, settings, report):
                writer.write_table(chunk)
                report.kept += chunk.num_rows
    logger.info("augmented_corpus: %s variants made, %s kept", f"{report.made:,}", f"{report.kept:,}")
    return report


def _chunks(
    corpus: Path,
    tokens: Path,
    tokenizer: Tokenizer,
    embeddings: np.ndarray,
    settings: Augmentation,
    report: AugmentationReport,
) -> Iterator[pa.Table]:
    """Yield the augmented corpus in tables of `AUGMENTED_SCHEMA`, and count in `report` what is left out."""
    vocabulary = read_vocabulary(tokenizer, len(embeddings))
    if settings.masked and vocabulary.mask is None:
        raise InputError(
            "the teacher's tokenizer has no mask token",
            where="augmentation.masked",
            remedy="Set it to 0 in the profile",
        )
    rows = pq.read_table(corpus, columns=["key", "text", "label", "split"])
    measured_on = rows["text"].filter(pc.not_equal(rows["split"], "train"))
    measured = NearDuplicates(Shingles.of(measured_on))
    read = pq.read_table(tokens, columns=["key", "text_key", "input_ids"])
    # Ids of all texts may be more than an offset of `list` can count.
    ids = read["input_ids"].cast(pa.large_list(pa.int32())).combine_chunks()
    # Nor is a variant that decodes to nothing a text.
    seen = {_content(np.array(tokenizer.encode("").ids, np.int32)), *map(_content, _rows_of(ids))}
    chosen = pc.equal(rows["split"], "train")
    if settings.origins == "labelled":
        chosen = pc.and_(chosen, pc.is_valid(rows["label"]))
    # A window of a train text is varied as a text is.
    chosen = chosen.take(pa.array(text_positions(rows["key"], read["text_key"], tokens)))
    texts, keys = _texts(read["key"].filter(chosen), ids.filter(chosen.combine_chunks()), vocabulary)
    report.origins = len(texts)
    if not len(texts):
        logger.warning("augmented_corpus: no train row has a label; set augmentation.origins to `all` to vary them")
        return
    pieces = np.unique(texts.ids)
    pieces = pieces[vocabulary.replaceable[pieces]]
    neighbours = np.full((len(embeddings), settings.neighbours), -1)
    neighbours[pieces] = nearest_pieces(embeddings, pieces, vocabulary, settings.neighbours)
    advance = progress_logger(logger, "augmented_corpus", len(texts), "train rows")
    step = max(1, VARIANTS_PER_CHUNK // settings.variants_per_text)
    for start in range(0, len(texts), step):
        positions = np.arange(start, min(start + step, len(texts)))
        variants = make_variants(texts, positions, vocabulary, neighbours, settings)
        yield _new_texts(variants, keys, tokenizer, seen, measured, report)
        advance(len(positions))


def _new_texts(
    variants: Variants,
    keys: pa.ChunkedArray,
    tokenizer: Tokenizer,
    seen: set[int],
    measured: NearDuplicates,
    report: AugmentationReport,
) -> pa.Table:
    """Return the texts of `variants` whose ids are not in `seen`, and add them to it; none near a `measured` text."""
    pieces = [row.tolist() for row in np.split(variants.ids, np.cumsum(variants.lengths)[:-1])]
    texts = [normalise(text) for text in tokenizer.decode_batch(pieces, skip_special_tokens=False)]
    table = tokenize(pa.array([text_key(text) for text in texts]), texts, tokenizer)
    report.made += len(texts)
    new = []
    matches = measured.nearest(Shingles.of(texts))
    for position, (row, match) in enumerate(zip(_rows_of(table["input_ids"].combine_chunks()), matches, strict=True)):
        if (content := _content(row)) in seen:
            report.dropped["its tokens are another row's"] += 1
        elif match is not None:
            report.dropped["near-duplicate of a validation or test text"] += 1
        else:
            seen.add(content)
            new.append(position)
    origin = keys.take(pa.array(variants.origin))
    columns = [*table.columns, pa.array(texts), origin]
    return pa.table(columns, schema=AUGMENTED_SCHEMA).take(pa.array(new, pa.int64()))


def _texts(keys: pa.ChunkedArray, ids: pa.LargeListArray, vocabulary: Vocabulary) -> tuple[Texts, pa.ChunkedArray]:
    """Return texts in the order of their keys, those left out that hold nothing, and their whole keys."""
    flat = ids.flatten().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(ids)), ids.value_lengths().to_numpy())
    inside = ~np.isin(flat, vocabulary.frame)
    lengths = np.bincount(row[inside], minlength=len(ids))
    # A key's first 8 bytes as a number, most significant first, sort as the key does.
    numbers = np.array([int.from_bytes(key[:8], "big") for key in keys.to_pylist()], np.uint64)
    order = np.argsort(numbers, kind="stable")
    order = order[lengths[order] > 0]
    parts = np.split(flat[inside], np.cumsum(lengths)[:-1])
    ordered = np.concatenate([*(parts[i] for i in order), np.empty(0, np.int64)])
    return Texts.from_ids(numbers[order], ordered, lengths[order], vocabulary), keys.take(pa.array(order))


def _rows_of(ids: pa.ListArray | pa.LargeListArray) -> Iterator[np.ndarray]:
    offsets, values = ids.offsets.to_numpy(), ids.values.to_numpy()
    for start, stop in itertools.pairwise(offsets.tolist()):
        yield values[start:stop]


def _content(ids: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")
