"""Augmentation: what a variant is made of, that it belongs to its text alone, and that none is a row of the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from finstill.augment.build import AugmentationReport, augment_corpus
from finstill.augment.draws import uniform
from finstill.augment.neighbours import nearest_pieces
from finstill.augment.variants import Texts, Variants, make_variants
from finstill.augment.vocabulary import Vocabulary, read_vocabulary
from finstill.config.profile import Augmentation
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.rows import Row
from finstill.corpus.text import text_key
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.errors import InputError
from finstill.teacher.checkpoint import resolve_checkpoint

SENTENCES = {
    "negative": "Shares of company {} fell after the profit warning on Tuesday",
    "neutral": "The annual meeting of company {} takes place in Helsinki",
    "positive": "Net sales of company {} rose strongly on record orders",
}
LABELS = tuple(SENTENCES)
NAMES = [f"{first}{second}" for first in ("Alma", "Kone", "Nordea", "Outo") for second in ("tech", "bank", "steel")]
WHOLE = Augmentation(variants_per_text=4, spliced=0, cropped=0, replaced=0, masked=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve_checkpoint("embedded").folder, 32)


@pytest.fixture(scope="module")
def embeddings(tokenizer: Tokenizer) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return read_vocabulary(tokenizer, tokenizer.get_vocab_size())


class Augmenter:
    """A small corpus and its tokens, to be augmented with settings of one's own."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, embeddings: np.ndarray):
        self.folder, self.tokenizer, self.embeddings = folder, tokenizer, embeddings

    def __call__(self, names: list[str] = NAMES, **settings: object) -> tuple[pa.Table, AugmentationReport]:
        rows = [(text.format(name), label) for name in names for label, text in SENTENCES.items()]
        rows += [(f"Nothing was said of {name}", None) for name in names]
        table, _ = build_corpus(
            [Row("f.csv", i, text, label, None, None, None) for i, (text, label) in enumerate(rows)],
            LABELS,
            {},
        )
        self.corpus = table
        write_corpus(table, self.folder / "corpus.parquet")
        tokenize_corpus(self.folder / "corpus.parquet", self.tokenizer, self.folder / "tokens.parquet")
        report = augment_corpus(
            self.folder / "corpus.parquet",
            self.folder / "tokens.parquet",
            self.tokenizer,
            self.embeddings,
            Augmentation(**{"variants_per_text": 6, **settings}),
            self.folder / "augmented.parquet",
        )
        return pq.read_table(self.folder / "augmented.parquet"), report


@pytest.fixture
def augment(tmp_path: Path, tokenizer: Tokenizer, embeddings: np.ndarray) -> Augmenter:
    return Augmenter(tmp_path, tokenizer, embeddings)


def texts_of(sentences: list[str], tokenizer: Tokenizer, vocabulary: Vocabulary) -> Texts:
    """Return sentences as `Texts`, their number as key."""
    ids = [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]
    lengths = np.array([len(row) for row in ids])
    return Texts.from_ids(
        np.arange(len(ids), dtype=np.uint64) << np.uint64(60), np.concatenate(ids), lengths, vocabulary
    )


def decoded(variants: Variants, tokenizer: Tokenizer) -> list[str]:
    rows = np.split(variants.ids, np.cumsum(variants.lengths)[:-1])
    return [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in rows]


def variants_of(sentences: list[str], tokenizer: Tokenizer, vocabulary: Vocabulary, **settings: object) -> list[str]:
    texts = texts_of(sentences, tokenizer, vocabulary)
    neighbours = np.full((tokenizer.get_vocab_size(), 1), tokenizer.token_to_id("bank"))
    variants = make_variants(texts, np.array([0]), vocabulary, neighbours, WHOLE.model_copy(update=settings))
    return decoded(variants, tokenizer)


class TestVariants:
    def test_with_every_share_at_nought_a_variant_is_the_text(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        assert set(variants_of(["profit rose unexpectedly today"], tokenizer, vocabulary)) == {
            "profit rose unexpectedly today"
        }

    def test_a_splice_is_a_head_of_the_text_and_a_tail_of_the_other(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        head, tail = "one two three four five", "six seven eight nine ten"
        for variant in variants_of([head, tail], tokenizer, vocabulary, spliced=1.0, variants_per_text=40):
            words = variant.split()
            own = sum(word in head.split() for word in words)
            assert 1 <= own <= 4
            assert words[:own] == head.split()[:own]
            assert words[own:] == tail.split()[-(len(words) - own) :]

    def test_a_crop_is_whole_words_in_a_row(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        # "outokumpu" is several pieces, which no crop parts.
        sentence = "the outokumpu mill in tornio made steel"
        lengths = set()
        for variant in variants_of([sentence], tokenizer, vocabulary, cropped=1.0, variants_per_text=60):
            assert f" {variant} " in f" {sentence} "
            lengths.add(len(variant.split()))
        assert lengths == {3, 4, 5, 6}

    @pytest.mark.parametrize("sentence", ["up", "up again", "up again now"])
    def test_the_shortest_texts_have_variants_too(
        self, sentence: str, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        for shares in ({"spliced": 1.0}, {"cropped": 1.0}):
            assert all(variants_of([sentence, "down"], tokenizer, vocabulary, **shares, variants_per_text=20))

    def test_shares_of_replaced_and_masked_pieces_are_those_asked_for(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        sentence = " ".join(["profit"] * 25)
        made = variants_of([sentence], tokenizer, vocabulary, replaced=0.16, masked=0.06, variants_per_text=400)
        words = [word for variant in made for word in variant.split()]
        assert len(words) == 10_000
        assert words.count("bank") == pytest.approx(1600, abs=150)
        assert words.count("[MASK]") == pytest.approx(600, abs=100)

    def test_variants_stay_when_other_texts_come_but_for_the_splices_that_meet_them(self, augment: Augmenter) -> None:
        def by_origin(table: pa.Table) -> dict[bytes, set[str]]:
            made: dict[bytes, set[str]] = {}
            for row in table.to_pylist():
                made.setdefault(row["origin"], set()).add(row["text"])
            return made

        few, many = by_origin(augment(NAMES[:6], spliced=0)[0]), by_origin(augment(NAMES, spliced=0)[0])
        assert all(many[origin] == few[origin] for origin in few)
        few, many = by_origin(augment(NAMES[:11], spliced=0.5)[0]), by_origin(augment(NAMES, spliced=0.5)[0])
        kept = sum(len(few[origin] & many[origin]) for origin in few)
        assert kept > 0.8 * sum(map(len, few.values()))

    @given(st.integers(0, 2**63), st.integers(0, 100))
    def test_draws_follow_from_their_parts_alone(self, key: int, number: int) -> None:
        keys = np.array([key, key + 1, key], np.uint64)
        drawn = uniform(keys, 17, number)
        assert drawn[0] == drawn[2] == uniform(np.array([key], np.uint64), 17, number)[0]
        assert 0 <= drawn[0] < 1
        assert len({*drawn, *uniform(keys, 18, number), *uniform(keys, 17, number + 1)}) == 6


class TestNeighbours:
    def test_they_are_the_nearest_by_cosine_that_take_the_same_place_in_a_word(
        self, vocabulary: Vocabulary, embeddings: np.ndarray
    ) -> None:
        pieces = np.flatnonzero(vocabulary.replaceable)[[10, 5000, -1, -700]]
        found = nearest_pieces(embeddings, pieces, vocabulary, 5)
        unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
        for piece, row in zip(pieces, found, strict=True):
            allowed = vocabulary.replaceable & (vocabulary.marker == vocabulary.marker[piece])
            allowed[piece] = False
            cosines = np.where(allowed, unit @ unit[piece], -2)
            assert row.tolist() == np.argsort(-cosines)[:5].tolist()

    def test_special_tokens_and_spare_places_are_no_pieces_of_text(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        names = [tokenizer.id_to_token(i) for i in np.flatnonzero(~vocabulary.replaceable).tolist()]
        assert {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[unused5]"} <= set(names)
        assert vocabulary.replaceable[tokenizer.token_to_id("profit")]
        assert vocabulary.replaceable[tokenizer.token_to_id("[")]


class TestAugmentedCorpus:
    def test_each_text_is_new_and_its_key_and_tokens_are_its_own(
        self, augment: Augmenter, tokenizer: Tokenizer
    ) -> None:
        table, report = augment()
        assert report.kept == table.num_rows > 100
        assert report.made == 6 * report.origins == report.kept + report.dropped.total()
        rows = table.to_pylist()
        ids = {tuple(row["input_ids"]) for row in rows}
        assert len(ids) == len({row["key"] for row in rows}) == len(rows)
        assert ids.isdisjoint(tuple(e.ids) for e in tokenizer.encode_batch(augment.corpus["text"].to_pylist()))
        for row in rows:
            assert row["key"] == text_key(row["text"])
            assert row["input_ids"] == tokenizer.encode(row["text"]).ids
            assert row["n_tokens"] == len(row["input_ids"]) > 2

    def test_it_is_made_from_labelled_train_rows_and_from_all_where_asked(self, augment: Augmenter) -> None:
        for origins in ("labelled", "all"):
            table, report = augment(origins=origins)
            train = {
                row["key"]
                for row in augment.corpus.to_pylist()
                if row["split"] == "train" and (origins == "all" or row["label"] is not None)
            }
            assert set(table["origin"].to_pylist()) == train
            assert report.origins == len(train)

    def test_made_again_it_is_the_same_and_another_seed_makes_another(self, augment: Augmenter) -> None:
        first = augment()[0]
        assert augment()[0].equals(first)
        assert not augment(seed=1)[0].equals(first)

    def test_a_variant_that_is_a_row_of_the_corpus_is_left_out(self, augment: Augmenter) -> None:
        """Whole texts, nothing changed: each is a row of the corpus."""
        table, report = augment(spliced=0, cropped=0, replaced=0, masked=0)
        assert table.num_rows == 0
        assert report.dropped.total() == report.made > 0

    def test_chunks_of_rows_make_no_difference(self, augment: Augmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = augment()[0]
        monkeypatch.setattr("finstill.augment.build.VARIANTS_PER_CHUNK", 7)
        assert augment()[0].equals(whole)

    def test_without_a_labelled_row_it_is_empty_and_says_so(
        self, augment: Augmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(globals(), "SENTENCES", {None: "A sentence of {} that nobody judged, long as it is"})
        assert augment()[0].num_rows == 0
        assert "set augmentation.origins to `all`" in caplog.text
        assert augment(origins="all")[0].num_rows > 0

    def test_off_it_is_an_empty_table(self, augment: Augmenter) -> None:
        table, report = augment(variants_per_text=0)
        assert table.num_rows == report.made == 0

    def test_a_tokenizer_without_a_mask_is_said(self, augment: Augmenter) -> None:
        augment.tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        augment.tokenizer.enable_truncation(32)
        with pytest.raises(InputError, match="no mask token"):
            augment()


def test_shares_of_one_whole_cannot_exceed_it() -> None:
    with pytest.raises(ValueError, match=r"'spliced' and 'cropped' are shares of the same whole, and add up to 1\.1"):
        Augmentation(spliced=0.8, cropped=0.3)
