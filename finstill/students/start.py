"""What a student starts from: a tokenizer, and the weights that it may take as its first ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from finstill.config.architectures import TEACHER
from finstill.corpus.tokenizer import read_tokenizer
from finstill.files import digest
from finstill.teacher.checkpoint import load_body, load_encoder, longest_text, resolve_checkpoint


@dataclass(frozen=True)
class Start:
    """A checkpoint that a student starts from.

    Attributes:
        folder: of the checkpoint.
        tokenizer: neither pads nor cuts.
        encoder: the model without a head, in evaluation mode.
        max_length: tokens that the student reads at once, special ones included.
        output_vectors: of each token the student knows, where it starts from them: float32, (known, width); see
            `finstill.students.word_vectors`.
    """

    folder: Path
    tokenizer: Tokenizer
    encoder: PreTrainedModel
    max_length: int
    output_vectors: np.ndarray | None = None

    @classmethod
    def open(cls, checkpoint: str, teacher: Path, max_length: int | None) -> Start:
        """Return what `checkpoint` stands for in a recipe.

        Args:
            checkpoint: as `finstill.config.architectures.BaseConfig` has it.
            teacher: the teacher's checkpoint folder; of an imported teacher, the folder that its tokenizer comes from.
            max_length: tokens that the teacher reads at once; the student reads no more, and fewer where its checkpoint
                does. None leaves it to the checkpoint.

        Raises:
            InputError: there is no such checkpoint, or it cannot be read.
            UnreachableError: it is the hub's, which cannot be reached.
        """
        if checkpoint == TEACHER:
            folder, encoder = teacher, load_body(teacher)
        else:
            folder = resolve_checkpoint(checkpoint, where="architecture.checkpoint").folder
            encoder = load_encoder(folder)
        lengths = [length for length in (max_length, longest_text(encoder)) if length is not None]
        return cls(folder, read_tokenizer(folder), encoder, min(lengths))

    def weights_digests(self) -> list[str]:
        """Return a digest of each weight: of the tensors and not their file, so that a large one need not be in memory
        twice."""
        weights = sorted(self.encoder.state_dict().items())
        return [digest(tensor.contiguous().numpy().tobytes()) for _, tensor in weights]
