"""What every student is: a transformers classifier that can write itself as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar, Self

import onnx
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finstill.config.architectures import BaseConfig, EmbeddingConfig
from finstill.students.embedding import TokenEmbedding, fit_width
from finstill.students.graph import exported_graph
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary
from finstill.teacher.checkpoint import word_embeddings


class StudentConfig(PretrainedConfig):
    """What a saved student is rebuilt from.

    Attributes:
        architecture: the student's own settings; see `finstill.config.architectures`.
        vocab_size: ids that the tokenizer can give.
        known_tokens: how many of them have a vector of their own; all where it is not given.
        longest: tokens of a text that it reads at once, special ones included.
    """

    # Students that an older version saved call it their shape.
    attribute_map: ClassVar[dict[str, str]] = {"shape": "architecture"}

    architecture: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 30522
    known_tokens: int = 0
    longest: int = 512

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.known_tokens = self.known_tokens or self.vocab_size


class Student(PreTrainedModel):
    """A small classifier of token ids.

    Loaded, saved and called as any transformers model; each row's logits depend on that row alone. Its first layer is
    `self.embedding`, and its own part is `classify`.
    """

    embedding: TokenEmbedding

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initial values: transformers' normal(0, 0.02) is made for transformers' layer norms."""

    @classmethod
    def from_architecture(
        cls, architecture: BaseConfig, labels: Sequence[str], vocabulary: Vocabulary, start: Start
    ) -> Self:
        """Return an untrained student.

        Args:
            architecture: the student's own part of the recipe.
            labels: the task's labels, in the order of the logits.
            vocabulary: the tokens it knows, by the ids of its tokenizer.
            start: what it may take its first weights from.

        Raises:
            InputError: the architecture asks of this checkpoint what it does not have.
        """
        assert isinstance(architecture, EmbeddingConfig)
        student = cls(cls.configuration(architecture, labels, vocabulary, start.max_length))
        vectors, width = None, architecture.embedding_width
        if architecture.embedding == "input":
            # Of all tokens, so that those a student knows start alike whatever else it knows.
            vectors = fit_width(word_embeddings(start.encoder), width)[vocabulary.token_ids]
        elif architecture.embedding == "output":
            assert start.output_vectors is not None
            vectors = fit_width(start.output_vectors, width)
        student.embedding.start_from(vocabulary, vectors)
        return student

    @classmethod
    def configuration(
        cls, architecture: BaseConfig, labels: Sequence[str], vocabulary: Vocabulary, longest: int, **more: Any
    ) -> Any:
        """Return the configuration of a student; `more` are fields that its own class adds."""
        assert cls.config_class is not None
        assert issubclass(cls.config_class, StudentConfig)
        return cls.config_class(
            architecture=architecture.model_dump(mode="json"),
            vocab_size=vocabulary.size,
            known_tokens=len(vocabulary.token_ids),
            longest=longest,
            **label_maps(labels),
            **more,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Classify token ids.

        Args:
            input_ids, attention_mask: int64, (rows, tokens); rows are padded at the end.
            output_attentions: also return the shares that `classify` returns.

        Returns:
            logits: float, (rows, classes).
            attentions: these shares, where they were asked for: one float, (rows, tokens).
        """
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        logits, shares = self.classify(input_ids, mask, output_attentions)
        attentions = None if shares is None or not output_attentions else (shares,)
        return SequenceClassifierOutput(logits=logits, attentions=attentions)

    def classify(self, input_ids: Tensor, mask: Tensor, explain: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and how much of the answer each token had.

        Args:
            input_ids: int64, (rows, tokens).
            mask: bool, (rows, tokens), false for padding, which stands at the end.
            explain: whether the second is wanted; where it is not, it may be None.

        Returns:
            float, (rows, classes), and float, (rows, tokens), in sum 1 a row.
        """
        raise NotImplementedError

    def onnx_graph(self) -> onnx.ModelProto:
        """Return this student as a graph; see `finstill.students.graph.exported_graph` for its inputs and outputs."""
        return exported_graph(self)


class TokenStateStudent(Student):
    """A student whose last layer has a state for each token, which hints can teach: see `finstill.training.hints`.

    Its head takes vectors as wide as these states.
    """

    dropout: nn.Dropout
    head: nn.Linear

    def token_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's states.

        Args:
            input_ids: int64, (rows, tokens).
            mask: bool, (rows, tokens), false for padding.

        Returns:
            float, (rows, tokens, width).
        """
        raise NotImplementedError


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax of scores over the tokens of a row, which `dim` counts; 0 where `mask` is false."""
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=dim)


def label_maps(labels: Sequence[str]) -> dict[str, Any]:
    """Return the class names as a transformers configuration holds them."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
