"""`convolution`: banks of filters over word vectors, each filter's strongest answer kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finstill.config.architectures import ConvolutionConfig
from finstill.students.base import Student, StudentConfig
from finstill.students.embedding import TokenEmbedding


class PretrainedConvolutionConfig(StudentConfig):
    """Of a `Convolution`; its architecture is a `ConvolutionConfig`."""

    model_type = "finstill_convolution"


class Convolution(Student):
    """Parallel convolutions of several widths, the maximum over the text of each filter, a linear head.

    Kim 2014, "Convolutional Neural Networks for Sentence Classification". A window beyond a text's end reads zeros,
    whether padding follows or nothing does, and only windows centred on a token count: a text's logits are those it has
    alone.
    """

    config_class = PretrainedConvolutionConfig

    def __init__(self, config: PretrainedConvolutionConfig):
        super().__init__(config)
        architecture = ConvolutionConfig(**config.architecture)
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, architecture.embedding_width)
        self.banks = nn.ModuleList(
            nn.Conv1d(architecture.embedding_width, architecture.filters, width) for width in architecture.widths
        )
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(architecture.filters * len(architecture.widths), len(config.id2label or ()))
        self.post_init()

    def classify(self, input_ids: Tensor, mask: Tensor, explain: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and of each token the share of filters that are strongest around it."""
        words = self.dropout(self.embedding(input_ids)) * mask[:, :, None]
        responses = torch.cat([bank(F.pad(words.mT, margins(bank))) for bank in self.banks], dim=1)
        responses = responses.masked_fill(~mask[:, None], float("-inf"))
        strongest = responses.amax(dim=-1, keepdim=True)
        logits = self.head(self.dropout(torch.relu(strongest.squeeze(-1))))
        if not explain:
            return logits, None
        wins = (responses == strongest).float()
        return logits, (wins / wins.sum(dim=-1, keepdim=True)).mean(dim=1)


def margins(bank: nn.Module) -> tuple[int, int]:
    """Return the zeros before and after a text that give a filter bank one answer a token."""
    assert isinstance(bank, nn.Conv1d)
    (width,) = bank.kernel_size
    return (width - 1) // 2, width // 2
