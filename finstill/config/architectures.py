"""What a recipe may say of each student's size. Free of torch: recipes are read where nothing is trained."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TEACHER = "teacher"


class BaseConfig(BaseModel):
    """What every student's architecture has.

    Attributes:
        checkpoint: whose tokenizer the student reads by and whose weights it starts from: `teacher`, `embedded` for the
            encoder that Finstill installs, a folder, or a Hugging Face model name.
        vocabulary: `full` knows every token of that tokenizer; `corpus` those that occur at least twice in the train
            rows, and reads any other as the tokenizer's unknown token. A smaller table of word vectors
            is most of a small student's size.
        vocabulary_size: with `corpus`, at most so many tokens, the commonest; none is no limit.
        dropout: share of activations left out in training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = TEACHER
    vocabulary: Literal["full", "corpus"] = "full"
    vocabulary_size: int | None = Field(None, ge=2)
    dropout: float = Field(0.3, ge=0, lt=1)

    @model_validator(mode="after")
    def _size_of_a_trimmed_vocabulary(self) -> BaseConfig:
        if self.vocabulary == "full" and self.vocabulary_size is not None:
            raise ValueError("vocabulary_size limits a trimmed vocabulary: say vocabulary: corpus too")
        return self

    @property
    def starts_from_checkpoint(self) -> bool:
        """Whether any of the student's first weights come from its checkpoint."""
        return True

    @property
    def starts_from_texts(self) -> bool:
        """Whether any of them are learned from the train texts, with labels or without."""
        return False


class EmbeddingConfig(BaseConfig):
    """The architecture of a student with word vectors of its own width.

    Attributes:
        embedding: `input` starts from the checkpoint's word embeddings, `output` from the mean of what its last layer
            says of each token in the train texts (see `finstill.students.word_vectors`), both projected to
            `embedding_width` by PCA where the widths differ; `random` starts from nothing.
    """

    embedding: Literal["input", "output", "random"] = "input"
    embedding_width: int = Field(128, ge=1, le=4096)

    @field_validator("embedding", mode="before")
    @classmethod
    def _older_name(cls, embedding: object) -> object:
        # What an older version's recipes and packages call the word embeddings.
        return "input" if embedding == "teacher" else embedding

    @property
    def starts_from_checkpoint(self) -> bool:
        return self.embedding != "random"

    @property
    def starts_from_texts(self) -> bool:
        return self.embedding == "output"


class HintedConfig(BaseConfig):
    """The architecture of a student with a state for each token.

    Attributes:
        hint_texts: train texts on which the student first learns what the checkpoint's last layer says of each token,
            see `finstill.training.hints`; with 0 it does not.
    """

    hint_texts: int = Field(0, ge=0)

    @property
    def starts_from_checkpoint(self) -> bool:
        return super().starts_from_checkpoint or self.hint_texts > 0

    @property
    def starts_from_texts(self) -> bool:
        return super().starts_from_texts or self.hint_texts > 0


class LstmAttentionConfig(HintedConfig, EmbeddingConfig):
    """The size of an `lstm_attention` student.

    Attributes:
        hidden_width: units of one direction of one layer.
    """

    hidden_width: int = Field(128, ge=1, le=4096)
    layers: int = Field(3, ge=1, le=12)


class ConvolutionConfig(EmbeddingConfig):
    """The size of a `convolution` student.

    Attributes:
        widths: tokens that a filter of each bank reads at once.
        filters: of each bank.
    """

    widths: tuple[int, ...] = Field((3, 4, 5), min_length=1, max_length=16)
    filters: int = Field(128, ge=1, le=4096)

    @model_validator(mode="after")
    def _widths_of_tokens(self) -> ConvolutionConfig:
        if not all(1 <= width <= 64 for width in self.widths):
            raise ValueError(f"widths are from 1 to 64 tokens (given: {list(self.widths)})")
        return self


class EncoderConfig(HintedConfig):
    """The size of an `encoder` student: as wide as its checkpoint, some of its layers.

    Attributes:
        layers: positions of the checkpoint's layers that it starts from, in order; the first is 0.
        embedding_width: word vectors of this width and a projection, in place of vectors as wide as a layer; None keeps
            those. The table of word vectors is so many times smaller.
    """

    checkpoint: str = "embedded"
    layers: tuple[int, ...] = Field((0, 2, 5), min_length=1, max_length=48)
    embedding_width: int | None = Field(None, ge=1, le=4096)
    dropout: float = Field(0.1, ge=0, lt=1)


class StaticConfig(EmbeddingConfig):
    """The size of a `static` student.

    Attributes:
        pair_width: of the products of neighbouring words; 0 leaves them out, and with them the order of words.
        hidden_width: units of the layer between the pooled vector and the logits; 0 leaves it out.
    """

    embedding_width: int = Field(256, ge=1, le=4096)
    pair_width: int = Field(64, ge=0, le=4096)
    hidden_width: int = Field(256, ge=0, le=4096)

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Self:
        """Return the settings that this or an older version stored as JSON."""
        # Students had no pairs before there was a width of them.
        return cls.model_validate({"pair_width": 0, **values})


ArchitectureConfig = LstmAttentionConfig | ConvolutionConfig | EncoderConfig | StaticConfig
StudentName = Literal["lstm_attention", "convolution", "encoder", "static"]

ARCHITECTURES: dict[str, type[ArchitectureConfig]] = {
    "lstm_attention": LstmAttentionConfig,
    "convolution": ConvolutionConfig,
    "encoder": EncoderConfig,
    "static": StaticConfig,
}
