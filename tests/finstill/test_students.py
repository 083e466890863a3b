"""Every student: blind to padding and batch mates, the same as a graph, saved and loaded, and what it starts from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from finstill.config.architectures import (
    ARCHITECTURES,
    BaseConfig,
    ConvolutionConfig,
    EncoderConfig,
    LstmAttentionConfig,
    StaticConfig,
    StudentName,
)
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import read_tokenizer
from finstill.errors import InputError
from finstill.inference.batching import pad
from finstill.inference.session import OnnxClassifier
from finstill.students.base import Student, StudentConfig
from finstill.students.encoder import Encoder
from finstill.students.lstm_attention import LstmAttention
from finstill.students.registry import STUDENTS, load_student
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary
from finstill.students.word_vectors import output_vectors
from finstill.teacher.checkpoint import load_classifier

LABELS = ("negative", "neutral", "positive")
VOCABULARY = 30522
UNKNOWN = 100
SMALL: dict[str, BaseConfig] = {
    "lstm_attention": LstmAttentionConfig(embedding="random", embedding_width=12, hidden_width=8, layers=3),
    "convolution": ConvolutionConfig(embedding="input", embedding_width=12, filters=6, widths=(2, 3, 5)),
    "encoder": EncoderConfig(layers=(1,)),
    "static": StaticConfig(embedding="input", embedding_width=40, pair_width=6, hidden_width=8),
}
TRIMMED = Vocabulary(np.array([3, 5, 9, 20, 50, UNKNOWN]), VOCABULARY, UNKNOWN)
VOCABULARIES = {"full": Vocabulary.full(VOCABULARY), "trimmed": TRIMMED}
KINDS = [(name, vocabulary) for name in STUDENTS for vocabulary in VOCABULARIES]
token_rows = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=20), min_size=1, max_size=6)

Built = tuple[Student, OnnxClassifier]


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Path) -> Start:
    return Start.open("teacher", tiny_checkpoint, 128)


@pytest.fixture(scope="module")
def build(teacher: Start) -> Callable[..., Student]:
    """Return a function that makes a student with weights that are not its first ones."""

    def make(name: str, vocabulary: str = "full", seed: int = 0) -> Student:
        torch.manual_seed(seed)
        student = STUDENTS[name].from_architecture(SMALL[name], LABELS, VOCABULARIES[vocabulary], teacher).eval()
        for weight in student.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
        return student

    return make


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def built(
    request: pytest.FixtureRequest, build: Callable[..., Student], tmp_path_factory: pytest.TempPathFactory
) -> Built:
    student = build(*request.param)
    path = tmp_path_factory.mktemp("student") / "model.onnx"
    onnx.save(student.onnx_graph(), path)
    return student, OnnxClassifier(path)


def test_every_student_has_an_architecture_and_a_name_that_recipes_know() -> None:
    assert list(STUDENTS) == list(ARCHITECTURES) == list(get_args(StudentName)) == list(SMALL)
    for student in STUDENTS.values():
        assert issubclass(student.config_class, StudentConfig)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(token_rows)
def test_a_texts_logits_are_those_it_has_alone(built: Built, rows: list) -> None:
    student, graph = built
    input_ids, mask = pad(rows)
    with torch.inference_mode():
        alone = np.concatenate([student(torch.tensor([row])).logits.numpy() for row in rows])
        batch = student(torch.from_numpy(input_ids), torch.from_numpy(mask)).logits.numpy()
    assert batch == pytest.approx(alone, abs=1e-5)
    assert graph.batch_logits(rows) == pytest.approx(alone, abs=1e-5)


def test_attention_is_a_distribution_over_the_tokens_and_the_same_in_the_graph(built: Built) -> None:
    student, graph = built
    input_ids, mask = pad([[5, 6, 7], [8]])
    with torch.inference_mode():
        output = student(torch.from_numpy(input_ids), torch.from_numpy(mask), output_attentions=True)
    (weights,) = output.attentions
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert weights[1].tolist() == pytest.approx([1, 0, 0])
    (in_graph,) = graph._session.run(["attention"], {"input_ids": input_ids, "attention_mask": mask})
    assert in_graph == pytest.approx(weights.numpy(), abs=1e-5)


def test_its_graph_names_no_path_of_the_machine_it_was_made_on(build: Callable[..., Student]) -> None:
    assert str(Path(__file__).parents[2]).encode() not in build("static").onnx_graph().SerializeToString()


def test_it_is_saved_as_safetensors_and_loaded_by_from_pretrained(built: Built, tmp_path: Path) -> None:
    student, _ = built
    student.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = load_student(tmp_path)
    assert type(loaded) is type(student)
    assert list(loaded.config.id2label.values()) == list(LABELS)
    assert {name: weight.tolist() for name, weight in loaded.state_dict().items()} == {
        name: weight.tolist() for name, weight in student.state_dict().items()
    }
    row = torch.tensor([[5, 6, 7, 99]])
    assert torch.allclose(loaded(row).logits, student(row).logits, atol=1e-6)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_configuration_knows_all_words_and_reads_512_tokens_where_it_does_not_say(name: str) -> None:
    made = STUDENTS[name].config_class
    assert made is not None
    assert (made(vocab_size=10).known_tokens, made().longest, made(shape={"a": 2}).architecture) == (10, 512, {"a": 2})


@pytest.mark.parametrize("name", STUDENTS)
def test_a_trimmed_student_reads_what_it_does_not_know_as_unknown(build: Callable[..., Student], name: str) -> None:
    student, full = build(name, "trimmed"), build(name)
    with torch.inference_mode():
        strange, unknown = (student(torch.tensor([[5, token, 9]])).logits for token in (7777, UNKNOWN))
        apart = full(torch.tensor([[5, 7777, 9]])).logits
        unknown_apart = full(torch.tensor([[5, UNKNOWN, 9]])).logits
    assert torch.equal(strange, unknown)
    assert not torch.equal(apart, unknown_apart)
    assert student.embedding.vectors.num_embeddings == len(TRIMMED.token_ids)


@pytest.mark.parametrize("vocabulary", ["full", "trimmed"])
@pytest.mark.parametrize("name", STUDENTS)
def test_only_the_vectors_of_tokens_that_are_read_are_learned(
    build: Callable[..., Student], name: str, vocabulary: str
) -> None:
    student = build(name, vocabulary)
    row, elsewhere = torch.tensor([[5, 6, 9, 6]]), torch.tensor([[5, 40, 7777, UNKNOWN]])
    before = student.embedding.vectors.weight.detach().clone()
    with student.embedding.learning(np.unique(row.numpy())):
        assert student.embedding.vectors.num_embeddings == 3
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.1)
        student.train()(row).logits[0, 0].backward()
        optimizer.step()
        inside = student.eval()(elsewhere).logits
    after = student.embedding.vectors.weight.detach()
    changed = (before != after).any(dim=1).nonzero().squeeze(-1).tolist()
    assert changed == sorted(student.embedding.known(torch.tensor([5, 6, 9])).tolist())
    assert torch.equal(student(elsewhere).logits, inside)


@pytest.mark.parametrize("width", [6, 32, 40])
def test_the_teachers_embeddings_keep_what_is_near_to_what(make_checkpoint: Callable[..., Path], width: int) -> None:
    """Three words that point the same way stay nearer to each other than to the rest, at any width."""
    teacher = Start.open("teacher", make_checkpoint(), 128)
    embeddings = teacher.encoder.get_input_embeddings().weight.data
    embeddings[201:203] = embeddings[200] + 0.0002 * torch.randn(2, 32, generator=torch.manual_seed(0))
    architecture = SMALL["lstm_attention"].model_copy(update={"embedding": "input", "embedding_width": width})
    student = LstmAttention.from_architecture(architecture, LABELS, Vocabulary.full(VOCABULARY), teacher)
    start = student.embedding.vectors.weight.detach().numpy()
    distances = np.linalg.norm(start - start[200], axis=1)
    assert set(np.argsort(distances)[:3]) == {200, 201, 202}
    assert start.std() == pytest.approx(1, rel=0.01)


def test_a_trimmed_student_starts_from_the_same_vectors_as_a_full_one(teacher: Start) -> None:
    full, trimmed = (
        STUDENTS["static"].from_architecture(SMALL["static"], LABELS, each, teacher) for each in VOCABULARIES.values()
    )
    row = torch.from_numpy(TRIMMED.token_ids)[None]
    assert torch.equal(full.embedding(row), trimmed.embedding(row))


@pytest.mark.parametrize("embedding_width", [None, 32])
def test_an_encoder_of_all_its_teachers_layers_and_head_is_its_teacher(
    tiny_checkpoint: Path, teacher: Start, embedding_width: int | None
) -> None:
    """Vectors as wide as before lose nothing in being factorised."""
    classifier = load_classifier(tiny_checkpoint)
    architecture = EncoderConfig(layers=(0, 1), embedding_width=embedding_width)
    student = Encoder.from_architecture(architecture, LABELS, Vocabulary.full(VOCABULARY), teacher).eval()
    student.head.load_state_dict(classifier.classifier.state_dict())  # type: ignore[union-attr, arg-type]
    input_ids, mask = map(torch.from_numpy, pad([[101, 5, 6, 7, 102], [101, 9, 102]]))
    with torch.inference_mode():
        expected = classifier(input_ids=input_ids, attention_mask=mask).logits
        assert student(input_ids, mask).logits.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_an_encoder_starts_from_the_layers_chosen(make_checkpoint: Callable[..., Path]) -> None:
    teacher = Start.open("teacher", make_checkpoint(num_hidden_layers=4), 128)
    student = Encoder.from_architecture(EncoderConfig(layers=(1, 3)), LABELS, TRIMMED, teacher)
    for layer, position in zip(student.layers, (1, 3), strict=True):
        theirs = teacher.encoder.encoder.layer[position].output.dense.weight
        assert torch.equal(layer.linear2.weight, theirs)


@pytest.mark.parametrize(("vocabulary", "largest"), [("full", 32), ("trimmed", 6)])
def test_word_vectors_wider_than_what_they_are_made_of_are_refused(
    teacher: Start, vocabulary: str, largest: int
) -> None:
    """The checkpoint's are 32 wide, and the trimmed vocabulary has 6 tokens."""
    known = VOCABULARIES[vocabulary]
    for width in (largest, largest + 1):
        refused = pytest.raises(
            InputError, match=rf"architecture\.embedding_width: .* width {width} .* The largest width is {largest}"
        )
        with nullcontext() if width == largest else refused:
            Encoder.from_architecture(EncoderConfig(layers=(1,), embedding_width=width), LABELS, known, teacher)


def test_vectors_of_fewer_tokens_than_they_are_to_be_wide_are_refused(teacher: Start) -> None:
    vectors = output_vectors(teacher, TokenIds.of([[101, 5, 9, 102]]), TRIMMED, None, "student")
    architecture = SMALL["static"].model_copy(update={"embedding": "output", "embedding_width": 7})
    with pytest.raises(InputError, match=r"of width 7 cannot be made of those of 6 tokens .* The largest width is 6"):
        STUDENTS["static"].from_architecture(architecture, LABELS, TRIMMED, replace(teacher, output_vectors=vectors))


def test_a_layer_the_teacher_does_not_have_is_said(teacher: Start) -> None:
    with pytest.raises(InputError, match=r"architecture\.layers: .* has no layer 2: it has 2, and the first is 0"):
        Encoder.from_architecture(EncoderConfig(layers=(0, 2)), LABELS, TRIMMED, teacher)


def test_an_untrained_static_student_is_the_mean_of_its_words(teacher: Start) -> None:
    student = STUDENTS["static"].from_architecture(SMALL["static"], LABELS, VOCABULARIES["full"], teacher).eval()
    row = torch.tensor([[5, 6, 7, 8]])
    assert student(row, output_attentions=True).attentions[0].tolist() == [[0.25] * 4]


def test_a_static_student_tells_who_stands_beside_whom_by_its_pairs_alone(teacher: Start) -> None:
    rows = torch.tensor([[5, 6, 7, 8, 9], [7, 6, 5, 8, 9], [5, 6, 7, 9, 8]])
    for pair_width, orders in ((0, 1), (6, 3)):
        architecture = SMALL["static"].model_copy(update={"pair_width": pair_width})
        student = STUDENTS["static"].from_architecture(architecture, LABELS, VOCABULARIES["full"], teacher).eval()
        with torch.inference_mode():
            logits = student(rows).logits
        assert len(np.unique(logits.numpy().round(5), axis=0)) == orders


def test_a_static_student_of_before_there_were_pairs_is_loaded(teacher: Start, tmp_path: Path) -> None:
    architecture = SMALL["static"].model_copy(update={"pair_width": 0})
    student = STUDENTS["static"].from_architecture(architecture, LABELS, VOCABULARIES["full"], teacher).eval()
    del student.config.architecture["pair_width"]
    student.save_pretrained(tmp_path)
    row = torch.tensor([[5, 6, 7]])
    assert torch.allclose(load_student(tmp_path)(row).logits, student(row).logits, atol=1e-6)


def test_an_output_vector_is_the_mean_of_what_the_encoder_says_of_a_token(teacher: Start, tmp_path: Path) -> None:
    texts = [[101, 5, 9, 102], [101, 5, 5, 102], [101, 20, 7, 102]]
    rows = TokenIds.of(texts)
    vectors = output_vectors(teacher, rows, TRIMMED, tmp_path / "kept", "student")
    with torch.inference_mode():
        states = [teacher.encoder(torch.tensor([row])).last_hidden_state[0].numpy() for row in [*texts, [101, 3, 102]]]
    assert vectors.shape == (len(TRIMMED.token_ids), 32)
    # TRIMMED is 3, which no text holds, then 5, which stands in two; 7 is read as the unknown token.
    assert vectors[0] == pytest.approx(states[3][1], abs=1e-5)
    assert vectors[1] == pytest.approx(np.mean([states[0][1], states[1][1], states[1][2]], axis=0), abs=1e-5)
    (file,) = (tmp_path / "kept").glob("*.npy")
    np.save(file, np.zeros(1))
    assert output_vectors(teacher, rows, TRIMMED, tmp_path / "kept", "student").tolist() == [0], "it is kept"
    assert len(output_vectors(teacher, rows[:2], TRIMMED, tmp_path / "kept", "student")) > 1, "of other texts"


def test_students_that_begin_at_once_read_the_texts_once(
    teacher: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="finstill.students.word_vectors")
    rows = TokenIds.of([[101, *range(1, 3 + i), 102] for i in range(20)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: output_vectors(teacher, rows, TRIMMED, tmp_path, "student"), range(4)))
    assert all(np.array_equal(each, found[0]) for each in found)
    assert sum("word vectors" in line for line in caplog.messages) == 1


def test_output_vectors_are_the_same_whatever_the_number_of_threads(teacher: Start) -> None:
    rows = TokenIds.of([[101, *range(1, 3 + i), 102] for i in range(60)])
    usual, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(output_vectors(teacher, rows, TRIMMED, None, "student"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(usual)
    assert np.array_equal(*found)


class TestVocabulary:
    ROWS = ((5, 5, 9), (9, 7, 9), (5, 20, 20))
    """5 and 9 occur three times, 20 twice, 7 once."""

    def test_keeps_what_occurs_twice_and_the_unknown_token(self, tiny_checkpoint: Path) -> None:
        rows, tokenizer = TokenIds.of(self.ROWS), read_tokenizer(tiny_checkpoint)
        vocabulary = Vocabulary.of_corpus(rows, VOCABULARY, tokenizer, at_most=None)
        assert vocabulary.token_ids.tolist() == [5, 9, 20, UNKNOWN]
        positions = vocabulary.positions()
        assert positions[[5, 9, 20, UNKNOWN]].tolist() == [0, 1, 2, 3]
        assert positions[[7, 0, 30521]].tolist() == [3, 3, 3]

    def test_keeps_the_commonest_where_it_is_limited(self, tiny_checkpoint: Path) -> None:
        rows, tokenizer = TokenIds.of(self.ROWS), read_tokenizer(tiny_checkpoint)
        vocabulary = Vocabulary.of_corpus(rows, VOCABULARY, tokenizer, at_most=3)
        assert vocabulary.token_ids.tolist() == [5, 9, UNKNOWN]

    def test_says_when_a_tokenizer_has_no_unknown_token(self) -> None:
        tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
        with pytest.raises(InputError, match="no token for what is unknown"):
            Vocabulary.of_corpus(TokenIds.of([[0]]), 1, tokenizer, at_most=None)
