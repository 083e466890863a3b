"""Chinese, Japanese and Thai, written without spaces between words: near-duplicates, windows and augmentation."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from finstill.augment.variants import Texts, make_variants
from finstill.augment.vocabulary import Vocabulary, read_vocabulary
from finstill.config.profile import Augmentation
from finstill.corpus.long_texts import Window, read_windows
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.shingles import Shingles
from finstill.corpus.text import normalise, words

SENTENCES = {
    "Chinese": (
        "这家公司去年的净利润下降了百分之十二。",
        "新工厂将在明年春天开始生产！",
        "董事长说：“我们会继续投资。”",
        "股价昨天为什么上涨了三点五元？",
        "分析师认为今年的销售会好一些……",
    ),
    "Japanese": (
        "売上高は前の年より大きく増えました。",
        "新しい工場は来年の春に動き出します。",
        "社長は「配当を増やしたい。」と話した。",
        "株価はなぜ昨日から下がったのか？",
        "データセンターの需要が伸びている！",
    ),
    "Thai": (
        "กำไรสุทธิของบริษัทเพิ่มขึ้นมากในปีนี้",
        "โรงงานใหม่จะเปิดในฤดูร้อนปีหน้า",
        "ราคาหุ้นลดลงเมื่อวานนี้",
        "คณะกรรมการเสนอให้จ่ายเงินปันผลเพิ่ม",
        "ผู้บริหารคาดว่ายอดขายจะดีขึ้น",
    ),
}
ENGLISH = ("Net profit of the company fell by a tenth.", "The board said it would invest again.")
TEXTS = {name: normalise((" " if name == "Thai" else "").join(of)) for name, of in SENTENCES.items()}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def framed(tokenizer: Tokenizer) -> Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's, with a vocabulary of characters: it puts each Chinese character apart, but not kana and Thai."""
    characters = sorted({*"".join([*TEXTS.values(), *ENGLISH])} - {" "})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return framed(tokenizer)


def unigram() -> Tokenizer:
    """As SentencePiece's: what stands between two spaces is one word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=SPECIAL, unk_token="[UNK]", max_piece_length=4, show_progress=False
    )
    sentences = map(normalise, itertools.chain(*SENTENCES.values(), ENGLISH))
    tokenizer.train_from_iterator(list(sentences) * 3, trainer)
    return framed(tokenizer)


def byte_level() -> Tokenizer:
    """As RoBERTa's, with a piece for each character but those of the last sentence, which are several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    known = "".join(normalise(sentence) for sentences in SENTENCES.values() for sentence in sentences[:-1])
    tokenizer.train_from_iterator([*known, *" ".join(ENGLISH).split()], trainer)
    return framed(tokenizer)


@pytest.fixture(scope="module", params=[wordpiece, unigram, byte_level], ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    make: Callable[[], Tokenizer] = request.param
    return make()


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Apple公司2023年,净利", ["Apple", "公", "司", "2023", "年", "净", "利"]),
            ("データは3つ。", ["デ", "ー", "タ", "は", "3", "つ"]),
            ("หุ้น ๑๒ ที่ดี", ["หุ้", "น", "๑๒", "ที่", "ดี"]),
            ("ក្រុមហ៊ុន", ["ក្រុ", "ម", "ហ៊ុ", "ន"]),
            ("ကုမ္ပဏီ", ["ကု", "မ္ပ", "ဏီ"]),
            ("ບໍລິສັດ", ["ບໍ", "ລິ", "ສັ", "ດ"]),
            ("주가가 올랐다", ["주가가", "올랐다"]),
        ],
    )
    def test_a_character_without_spaces_is_a_word_with_its_marks(self, text: str, expected: list[str]) -> None:
        assert words(unicodedata.normalize("NFKC", text)) == [unicodedata.normalize("NFKC", word) for word in expected]

    # Latin, Greek, Cyrillic, Arabic, the scripts of India, Korean, punctuation and signs.
    @given(st.text(st.characters(max_codepoint=0xDFF) | st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)))
    def test_in_other_scripts_words_are_runs_of_letters_and_digits(self, text: str) -> None:
        assert words(text) == re.findall(r"\w+", text)


class TestNearDuplicates:
    @pytest.mark.parametrize("language", SENTENCES)
    def test_a_text_with_a_changed_character_is_one(self, language: str) -> None:
        text = TEXTS[language]
        middle = len(text) // 2
        near = text[:middle] + "7" + text[middle + 1 :]
        (match,) = NearDuplicates(Shingles.of([*SENTENCES[language], text])).nearest(Shingles.of([near]))
        assert match is not None
        assert match.position == len(SENTENCES[language])

    @pytest.mark.parametrize("language", SENTENCES)
    def test_sentences_of_a_language_are_none_of_each_other(self, language: str) -> None:
        first, *others = SENTENCES[language]
        assert NearDuplicates(Shingles.of(others)).nearest(Shingles.of([first])) == [None]

    def test_two_long_thai_texts_share_little(self) -> None:
        """Consonants, and vowels above and below them: few signs, so that each text has nearly all pairs of them."""
        random = np.random.default_rng(0)
        consonants = [chr(c) for c in range(0x0E01, 0x0E2F)]
        marks = ["\u0e31", *(chr(c) for c in range(0x0E34, 0x0E3A)), "\u0e48", "\u0e49"]

        def text() -> str:
            pairs = zip(random.choice(consonants, 6000), random.choice(marks, 6000), strict=True)
            return "".join(itertools.chain.from_iterable(pairs))

        assert NearDuplicates(Shingles.of([text()])).nearest(Shingles.of([text()])) == [None]


def windows_of(text: str, tokenizer: Tokenizer, max_length: int) -> list[Window]:
    windows = read_windows(text, tokenizer.encode(text), tokenizer, max_length)
    for window in windows:
        assert len(window.ids) <= max_length
        assert text[window.start : window.start + len(window.text)] == window.text
    assert windows[0].start == 0
    assert windows[-1].start + len(windows[-1].text) == len(text)
    for one, following in itertools.pairwise(windows):
        assert one.start < following.start
        assert not text[one.start + len(one.text) : following.start].strip(), "every character is read"
    return windows


class TestWindows:
    @pytest.mark.parametrize("language", SENTENCES)
    def test_they_end_where_sentences_do(self, language: str, tokenizer: Tokenizer) -> None:
        long = normalise((" " if language == "Thai" else "").join([TEXTS[language]] * 3))
        # Two sentences of any fit, so that one ends in the second half of each window.
        longest = max(len(tokenizer.encode(normalise(sentence))) for sentence in SENTENCES[language])
        windows = windows_of(long, tokenizer, 2 * longest + 4)
        assert len(windows) > 3
        ends = [normalise(sentence)[-4:] for sentence in SENTENCES[language]]
        for window in windows[:-1]:
            assert window.text.endswith((*ends, "。」")), window.text

    @pytest.mark.parametrize("language", SENTENCES)
    def test_within_a_sentence_they_are_cut_between_characters_and_seldom_more_than_needed(
        self, language: str, tokenizer: Tokenizer
    ) -> None:
        endless = re.sub(r"[\s。!?.“”「」:]", "", TEXTS[language]) * 4
        windows = windows_of(endless, tokenizer, 40)
        for window in windows:
            assert unicodedata.category(window.text[0])[0] != "M", "a mark without its letter"
        # The next begins in the last quarter of the one before.
        assert len(windows) <= 1 + len(tokenizer.encode(endless)) / (0.7 * 37)

    def test_an_english_one_of_sentencepiece_ends_before_the_next_sentences_first_word(self) -> None:
        """A piece such as `▁The` has the space before its word too."""
        pieces = [*SPECIAL, ".", *sorted({f"▁{word}" for sentence in ENGLISH for word in sentence[:-1].split()})]
        tokenizer = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=1))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        windows = windows_of(" ".join(ENGLISH * 6), framed(tokenizer), 24)
        assert len(windows) > 3
        assert all(window.text.endswith(".") for window in windows)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return read_vocabulary(tokenizer, tokenizer.get_vocab_size())


def variants_of(sentences: list[str], tokenizer: Tokenizer, vocabulary: Vocabulary, **shares: float) -> list[str]:
    ids = [tokenizer.encode(normalise(sentence), add_special_tokens=False).ids for sentence in sentences]
    keys = np.arange(len(ids), dtype=np.uint64) << np.uint64(60)
    texts = Texts.from_ids(keys, np.concatenate(ids), np.array([len(row) for row in ids]), vocabulary)
    none = {"spliced": 0.0, "cropped": 0.0, "replaced": 0.0, "masked": 0.0}
    settings = Augmentation.model_validate({"variants_per_text": 60, **none, **shares})
    neighbours = np.full((tokenizer.get_vocab_size(), 1), -1)
    made = make_variants(texts, np.array([0]), vocabulary, neighbours, settings)
    rows = np.split(made.ids, np.cumsum(made.lengths)[:-1])
    # BERT's decoder puts spaces between Chinese characters.
    return [tokenizer.decode(row.tolist()).replace(" ", "") for row in rows]


class TestAugmentation:
    @pytest.mark.parametrize("language", ["Chinese", "Japanese", "Thai"])
    def test_crops_are_cut_between_characters(
        self, language: str, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        sentence, other, *_ = SENTENCES[language]
        if language == "Thai" and isinstance(tokenizer.model, models.WordPiece):
            pytest.skip("BERT's pieces of a Thai clause continue one word: none can stand alone")
        made = set(variants_of([sentence, other], tokenizer, vocabulary, cropped=1.0))
        assert len(made) > 20
        for variant in made:
            assert variant in normalise(sentence)
            assert unicodedata.category(variant[0])[0] != "M"

    @pytest.mark.parametrize("language", ["Chinese", "Japanese", "Thai"])
    def test_a_splice_is_a_head_of_one_text_and_a_tail_of_the_other(
        self, language: str, tokenizer: Tokenizer, vocabulary: Vocabulary
    ) -> None:
        if language == "Thai" and isinstance(tokenizer.model, models.WordPiece):
            pytest.skip("BERT's pieces of a Thai clause continue one word: none can stand alone")
        one, other = (normalise(sentence) for sentence in SENTENCES[language][:2])
        # SentencePiece's `▁` is a piece of its own before a text's first character: a head may be that alone.
        heads = itertools.accumulate(one, initial="")
        splices = {head + other[start:] for head in heads for start in range(len(other))}
        made = set(variants_of([one, other], tokenizer, vocabulary, spliced=1.0))
        assert len(made) > 20
        assert made <= splices

    def test_english_is_cut_where_it_was(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
        english = [i for i, piece in enumerate(pieces) if piece.strip("▁Ġ#").isascii()]
        continues = isinstance(tokenizer.model, models.WordPiece)
        for i in english:
            marked = pieces[i].startswith(("##", "▁", "Ġ"))
            assert vocabulary.starts_word[i] == (marked != continues), pieces[i]
