"""How the student in service holds: new texts alone, each once, against values worked out by hand."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from assets.in_service import holds_what_it_was_promoted_for
from assets.resources import ProfileResource
from finstill.config.task import SENTIMENT
from finstill.corpus.build import CORPUS_SCHEMA, write_corpus
from finstill.corpus.provenance import LongTexts, TableProvenance
from finstill.corpus.splits import split_of
from finstill.corpus.text import text_key
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.evaluation import in_service
from finstill.evaluation.in_service import Night, left_the_promotion, read_nights, record_night, table_of
from finstill.evaluation.plots import nights_in_service
from finstill.files import standing_folder, write_json
from finstill.serving.package import Package
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.training.rows import TrainingRows
from tests.tables import write_logits_table

RIGHT, WRONG = (0.9, 0.05, 0.05), (0.05, 0.9, 0.05)


class Desk:
    """Tables of a night: the teacher is sure that each text is negative, the student is right on some."""

    def __init__(self, root: Path, package: Package):
        self.root, self.champion = root, package
        self.tokenizer: Tokenizer = load_tokenizer(resolve_checkpoint("embedded").folder, 32)

    def record(
        self, texts: dict[str, tuple[float, float, float]], split: str = "test", long: LongTexts = "cut"
    ) -> list[Night]:
        """Record a night whose corpus holds these texts, each with the student's probabilities."""
        # One train text and one of each other split stand there always.
        always = {"a train text": "train", "a validation text": "validation", "a test text": "test"}
        splits = {text: split_of(text_key(text)) if split == "by key" else split for text in texts} | always
        rows = sorted((text_key(text), text) for text in splits)
        columns = [[key for key, _ in rows], [text for _, text in rows], None, [splits[text] for _, text in rows]]
        nothing = pa.nulls(len(rows), pa.string())
        arrays = [nothing if column is None else column for column in columns]
        table = pa.table([*arrays, ["f.csv"] * len(rows), nothing, nothing], schema=CORPUS_SCHEMA)
        corpus, tokens, logits = (self.root / f"{name}.parquet" for name in ("corpus", "tokens", "logits"))
        write_corpus(table, corpus)
        tokenize_corpus(corpus, self.tokenizer, tokens, long)
        keys = pq.read_table(tokens)["key"].to_pylist()
        teacher = np.tile(np.log(np.array(RIGHT, np.float32)), (len(keys), 1))
        write_logits_table(logits, keys, teacher, SENTIMENT.labels, TableProvenance.read(tokens))
        said = np.array([texts.get(text, RIGHT) for _, text in rows])
        (self.root / "scores").mkdir(exist_ok=True)
        scores = {"key": table["key"], "label": [SENTIMENT.labels[i] for i in said.argmax(axis=1)]}
        scores |= {f"probability_{label}": said[:, i] for i, label in enumerate(SENTIMENT.labels)}
        scores["decision"] = said[:, 0] > 0.5
        pq.write_table(pa.table(scores), self.root / "scores" / "000000.parquet")
        return record_night(
            corpus,
            tokens,
            logits,
            self.root / "scores",
            SENTIMENT,
            self.champion,
            self.tokenizer,
            self.root / "in_service",
            teacher="a teacher",
            recorded="2026-01-02T03:04:05+00:00",
        )


@pytest.fixture
def desk(tmp_path: Path, deciding_package: Package) -> Desk:
    return Desk(tmp_path, deciding_package)


def texts(start: int, right: int, wrong: int) -> dict[str, tuple[float, float, float]]:
    return {f"text number {start + i}": RIGHT if i < right else WRONG for i in range(right + wrong)}


def test_a_night_is_what_its_new_texts_say(desk: Desk) -> None:
    first = texts(0, 38, 0)
    (night,) = desk.record(first)
    # The two texts that stand there always are measured too, and the one of the train split is not.
    assert (night.texts, night.agreement[0], night.alerts_per_thousand) == (
        40,
        1,
        pytest.approx((1000, 912, 1000), abs=1),
    )
    assert night.kl_to_teacher == pytest.approx((0, 0, 0), abs=1e-6)
    _, second = desk.record({**first, **texts(100, 30, 10)})
    assert (second.texts, second.agreement[0]) == (40, 0.75)
    # 0.9 ln(0.9 / 0.05) + 0.05 ln(0.05 / 0.9) of ten texts of forty.
    assert second.kl_to_teacher[0] == pytest.approx(0.25 * 0.85 * np.log(18), rel=1e-5)
    assert second.agreement[1] < 0.75 < second.agreement[2]
    assert second.classes == {"negative": 0.75, "neutral": 0.25}
    assert night.teacher == "a teacher"
    assert read_nights(desk.root / "in_service") == [night, second]
    assert [row["agreement"] for row in table_of([night, second])] == ["0.75 (0.598 to 0.858)", "1 (0.912 to 1)"]
    assert nights_in_service([night, second]).startswith(b"\x89PNG")


def test_few_new_texts_wait_for_those_of_the_next_night_and_train_texts_never_count(desk: Desk) -> None:
    first = texts(0, 40, 0)
    desk.record(first)
    assert len(desk.record({**first, **texts(100, 20, 0)})) == 1
    assert len(desk.record({**first, **texts(100, 20, 0), **texts(200, 10, 0)})) == 2
    assert len(desk.record(texts(300, 50, 0), split="train")) == 2


def test_a_sample_is_compared_and_the_rest_is_not_compared_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_service, "SAMPLE", 35)
    many = texts(0, 60, 0)
    (night,) = desk.record(many)
    assert night.texts == 35
    assert len(desk.record(many)) == 1


def test_a_sample_is_of_both_splits(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_service, "SAMPLE", 60)
    many = [f"text number {i}" for i in range(600)]
    (night,) = desk.record(
        {text: RIGHT if split_of(text_key(text)) == "validation" else WRONG for text in many}, split="by key"
    )
    # Three of five are test texts.
    assert 0.2 < night.agreement[0] < 0.6


def test_a_long_text_has_the_tokens_of_all_its_windows(desk: Desk) -> None:
    long = {" ".join(f"profit {i} rose" for i in range(start, start + 30)): RIGHT for start in range(0, 6000, 100)}
    (night,) = desk.record(long, long="windows")
    assert night.mean_tokens > 85, "the tokenizer reads 32 at once"


def test_unknown_tokens_and_lengths_are_counted(desk: Desk) -> None:
    # BERT's vocabulary has no such letter: four tokens, of which one is unknown, between the two special ones.
    strange = {f"number {i} \U00012000": RIGHT for i in range(60)}
    (night,) = desk.record(strange)
    assert 0.15 < night.unknown_share < 0.25
    assert 4.5 < night.mean_tokens < 5.5


def test_texts_beyond_the_offsets_of_a_string_find_their_places() -> None:
    # Two texts that stand after more characters than such an offset can count. What is not read takes no memory.
    characters = np.zeros(2**31 + 9, np.uint8)
    characters[-9:] = list(b"firstlast")
    offsets = np.array([2**31, 2**31 + 5, 2**31 + 9])
    texts = pa.Array.from_buffers(pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(characters)])
    rows = TrainingRows(TokenIds.of([[1], [2]]), np.zeros(2, np.int64), texts=texts)
    assert rows.places_among(pa.chunked_array([["last"], ["other", "first"]])).tolist() == [2, 0]


def test_it_is_said_what_left_the_promotion(desk: Desk) -> None:
    at = {"test_rows": 100, "agreement": 0.95, "kl_to_teacher": 0.1, "decision": {"alerts_per_thousand": 300.0}}
    champion = replace(desk.champion, measured=at)
    night = Night("2026-01-02T03:04:05", "s", "d", 100, (0.8, 0.71, 0.87), (0.1, 0.05, 0.2), (300, 200, 400), 9, 0, {})
    assert left_the_promotion(night, champion) == ["agreement is 0.8 (0.71 to 0.87), and was 0.95 at promotion."]
    # What was measured on a hundred texts is no more certain than what is.
    held = replace(night, agreement=(0.9, 0.83, 0.94))
    assert left_the_promotion(held, champion) == []
    assert left_the_promotion(replace(held, alerts_per_thousand=None), champion) == []


def test_of_another_teacher_the_alert_rate_alone_is_tested(desk: Desk, tmp_path: Path) -> None:
    """Agreement and divergence are far from those of the promotion: they are set against another teacher's."""
    profile = ProfileResource(path=str(tmp_path / "mine.yaml"), home=str(tmp_path / "home"), cache=str(tmp_path))
    (tmp_path / "mine.yaml").write_text(
        "task: sentiment\ncorpus: {path: a.csv, text: t}\nrecipes: r.yaml\nteacher: {checkpoint: a/b}\n"
    )
    shutil.copytree(standing_folder(desk.champion.folder), profile.workspace.champion / "current")
    measured, digest = desk.champion.measured, desk.champion.digest
    held = measured["decision"]["alerts_per_thousand"]
    rates = (held, 0, 1000)
    night = Night("2026", "s", digest, measured["test_rows"], (0.1, 0.05, 0.2), (9, 8, 10), rates, 9, 0, {}, 1.0)

    def checked(night: Night) -> tuple[bool, str]:
        write_json(profile.workspace.in_service / "nights.json", [asdict(night)])
        result = holds_what_it_was_promoted_for(profile)
        return result.passed, result.description

    passed, said = checked(replace(night, teacher="another"))
    assert passed
    assert said.startswith("The teacher is another than at the promotion: agreement and divergence do not compare. ")
    assert said.endswith("the alert rate holds.")
    other_rate = 1000 if held < 500 else 0
    passed, said = checked(replace(night, teacher="another", alerts_per_thousand=(other_rate, 0, 1000)))
    assert (passed, "do not compare. alerts_per_thousand is" in said) == (False, True)
    # Of an older version's night nobody knows.
    for teacher in (None, desk.champion.teacher):
        passed, said = checked(replace(night, teacher=teacher))
        assert (passed, said.startswith("agreement is 0.1")) == (False, True)


def test_of_an_older_package_the_divergence_is_set_against_the_nights_interval(desk: Desk) -> None:
    at = {"test_rows": 100, "agreement": 0.95, "kl_to_teacher": 0.1, "decision": None}
    night = Night("2026", "s", "d", 100, (0.95, 0.9, 1), (0.3, 0.2, 0.4), None, 9, 0, {}, kl_deviation=0.9)
    (sentence,) = left_the_promotion(night, replace(desk.champion, measured=at))
    assert sentence == "kl_to_teacher is 0.3 (0.2 to 0.4), and was 0.1 at promotion."
    # A difference of 0.2 with a standard error of 0.13.
    assert left_the_promotion(night, replace(desk.champion, measured={**at, "kl_deviation": 0.9})) == []
    assert left_the_promotion(replace(night, kl_deviation=None), replace(desk.champion, measured=at)) == [sentence]
    # Before it was renamed.
    at["divergence"] = at.pop("kl_to_teacher")
    assert left_the_promotion(night, replace(desk.champion, measured=at)) == [sentence]


def test_a_student_that_holds_is_seldom_said_to_have_left_and_a_worse_one_is_always(desk: Desk) -> None:
    random = np.random.default_rng(0)

    def measures(rows: int, agreement: float, divergence: float) -> list[np.ndarray]:
        alerts = 1000 * (random.random(rows) < 0.2)
        return [random.random(rows) < agreement, random.gamma(0.5, 2 * divergence, rows), alerts]

    def around(values: np.ndarray) -> tuple[float, float, float]:
        mean, half = values.mean(), 1.96 * values.std() / len(values) ** 0.5
        return float(mean), float(mean - half), float(mean + half)

    def left(agreement: float, divergence: float) -> bool:
        """Whether one of 250 test texts and 1000 new ones says so."""
        then, now = measures(250, 0.9, 0.1), measures(1000, agreement, divergence)
        means = [float(values.mean()) for values in then]
        measured = {"test_rows": 250, "agreement": means[0], "kl_to_teacher": means[1], "kl_deviation": then[1].std()}
        champion = replace(desk.champion, measured={**measured, "decision": {"alerts_per_thousand": means[2]}})
        agreed, kl, alerts = map(around, now)
        night = Night("2026", "s", "d", 1000, agreed, kl, alerts, 9, 0, {}, kl_deviation=float(now[1].std()))
        return bool(left_the_promotion(night, champion))

    assert sum(left(0.9, 0.1) for _ in range(400)) <= 0.06 * 400
    assert all(left(0.75, 0.25) for _ in range(40))
