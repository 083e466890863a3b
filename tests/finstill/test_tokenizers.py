"""A published tokenizer in any form gives the ids that it gives in transformers, and is known again in another form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from finstill.corpus.tokenizer import load_tokenizer, read_tokenizer, tokenizer_identity, unknown_id
from finstill.errors import InputError
from tests.published_checkpoints import PUBLISHED, TEXTS, cased_bert, finbert_tone, prosus_finbert, texts


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder of a checkpoint, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            PUBLISHED[name](made[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_thousand_texts_get_the_published_tokenizers_ids(
    name: str, published: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = published(name)
    # Nothing in a cased vocabulary's three files tells transformers that it is one.
    reference = AutoTokenizer.from_pretrained(folder, **({"do_lower_case": False} if name == "cased_bert" else {}))
    read_tokenizer(folder).save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    sample = [*TEXTS, *texts(1000)]
    expected = reference(sample)["input_ids"]
    assert [encoding.ids for encoding in ours.encode_batch(sample)] == expected
    assert len({tuple(ids) for ids in expected}) > 500


def test_a_sentencepiece_model_gives_the_pieces_that_its_own_library_gives(published: Callable[[str], Path]) -> None:
    folder = published("xlm_roberta")
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    tokenizer = read_tokenizer(folder)
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).tokens == library.encode(text, out_type=str)


def test_a_cased_vocabulary_without_a_configuration_is_not_lower_cased(tmp_path: Path) -> None:
    cased_bert(tmp_path)
    assert read_tokenizer(tmp_path).encode("Shares FELL").tokens[1] == "Shares"


def test_an_uncased_vocabulary_without_a_configuration_is_lower_cased(tmp_path: Path) -> None:
    finbert_tone(tmp_path)
    assert read_tokenizer(tmp_path).encode("Shares").tokens == ["[CLS]", "shares", "[SEP]"]


def test_what_a_configuration_says_of_case_goes_before_the_vocabulary(tmp_path: Path) -> None:
    cased_bert(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert "Shares" not in read_tokenizer(tmp_path).encode("Shares").tokens


def test_a_published_tokenizer_json_is_taken_as_it_is(tmp_path: Path) -> None:
    cased_bert(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path, do_lower_case=False).backend_tokenizer.save(
        str(tmp_path / "tokenizer.json")
    )
    assert read_tokenizer(tmp_path).encode("Shares").tokens[1] == "Shares"


def test_texts_are_cut_at_the_maximum_length_whatever_the_checkpoint_says(tmp_path: Path) -> None:
    finbert_tone(tmp_path)
    assert len(load_tokenizer(tmp_path, 8).encode(" ".join(TEXTS)).ids) == 8


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tokenizer_has_an_unknown_token(name: str, published: Callable[[str], Path]) -> None:
    assert unknown_id(read_tokenizer(published(name))) is not None


def test_a_folder_without_a_tokenizer_says_what_it_holds_and_what_is_missing(tmp_path: Path) -> None:
    prosus_finbert(tmp_path)
    for file in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / file).unlink()
    with pytest.raises(InputError, match=r"among the files \['config\.json', 'pytorch_model\.bin'\].*vocab"):
        read_tokenizer(tmp_path)


class TestIdentity:
    """Of a tokenizer's behaviour, whatever it is written as."""

    @pytest.mark.parametrize("name", ["prosus_finbert", "distilroberta", "xlm_roberta"])
    def test_another_way_to_write_the_same_tokenizer_keeps_it(
        self, name: str, published: Callable[[str], Path]
    ) -> None:
        tokenizer = read_tokenizer(published(name))
        values = json.loads(tokenizer.to_str())
        if merges := values["model"].get("merges"):
            values["model"]["merges"] = [" ".join(pair) for pair in merges]
        values = {key: values[key] for key in reversed(values)}
        values["model"] = {key: values["model"][key] for key in reversed(values["model"])}
        again = Tokenizer.from_str(json.dumps(values, indent=4))
        again.enable_truncation(17)
        again.enable_padding()
        assert tokenizer_identity(again) == tokenizer_identity(tokenizer)

    def test_the_vocabulary_file_and_what_transformers_saves_are_the_same_tokenizer(self, tmp_path: Path) -> None:
        prosus_finbert(tmp_path)
        AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
        assert tokenizer_identity(read_tokenizer(tmp_path / "saved")) == tokenizer_identity(read_tokenizer(tmp_path))

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda values: values["normalizer"].update(lowercase=False), id="case"),
            pytest.param(lambda values: values["normalizer"].update(strip_accents=False), id="accents"),
            pytest.param(lambda values: values["model"]["vocab"].update(shares=6, fell=5), id="two ids exchanged"),
            pytest.param(lambda values: values["model"].update(max_input_chars_per_word=3), id="longest word"),
            pytest.param(lambda values: values["added_tokens"].append(_added("$AAPL")), id="an added token"),
            pytest.param(lambda values: values.update(post_processor=None), id="special tokens around a text"),
            pytest.param(lambda values: values.update(pre_tokenizer={"type": "WhitespaceSplit"}), id="words"),
        ],
    )
    def test_another_behaviour_is_another_tokenizer(
        self, change: Callable[[dict], object], published: Callable[[str], Path]
    ) -> None:
        tokenizer = read_tokenizer(published("finbert_tone"))
        values = json.loads(tokenizer.to_str())
        change(values)
        assert tokenizer_identity(Tokenizer.from_str(json.dumps(values))) != tokenizer_identity(tokenizer)


def _added(content: str) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 5000, "content": content, **flags}
