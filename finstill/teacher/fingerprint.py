"""What identifies a teacher: everything that can change one of its logits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finstill.files import digest
from finstill.inference.arithmetic import arithmetic

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

MOVES_NO_LOGIT = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "transformers_version",
    "use_cache",
}
"""Keys of a configuration that name things, or steer training, generation or what else a model returns. Class names
count by themselves, in their order."""


def teacher_fingerprint(
    weights: Mapping[str, Tensor],
    *,
    configuration: str,
    tokenizer: str,
    max_length: int,
    precision: str,
    variant: str,
    labels: Sequence[str],
    computed_by: str = "",
) -> str:
    """Return 32 hexadecimal digits that change when any of a teacher's logits could.

    The tensors count and not the file they came in: a checkpoint saved again, or as another kind of file, keeps its
    fingerprint and so its cache. The configuration counts beside them: another activation, number of heads or epsilon
    gives other logits with the same weights. With int8, ONNX Runtime's version and the processor's instruction sets
    count too: a float whose last bit differs there can move an activation by a whole level, and so a logit by more than
    1e-4. So does a float16 teacher's, by the GPU and by the shapes of its batches. A float32 teacher's logits agree.

    Args:
        weights: the state dict.
        configuration: what the model's configuration says; see `configuration_identity`.
        tokenizer: identity of the tokenizer's behaviour; see `finstill.corpus.tokenizer.tokenizer_identity`.
        precision: `float32`, `int8` or `float16`.
        variant: names the way the graph was made from the weights.
        labels: class names in the order of the logits.
        computed_by: of float16, the execution provider and the token budget.
    """
    parts: list[bytes | str] = [configuration, tokenizer, str(max_length), precision, variant, *labels]
    for name, tensor in sorted(weights.items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor.contiguous().numpy().tobytes()]
    parts += [said for said in (arithmetic(precision), computed_by) if said]
    return digest(*parts)


def fingerprint_on(fingerprint: str, provider: str | None) -> str:
    """Return what identifies a teacher's logits where `provider` gives others than the CPU; None is the CPU's own."""
    return fingerprint if provider is None else digest(fingerprint, provider)


def configuration_identity(configuration: PreTrainedConfig) -> str:
    """Return as JSON all that a model's configuration says and that can move a logit.

    What is as its class has it by default is left out, so that another version of transformers that knows more
    settings says the same.
    """
    ours, defaults = configuration.to_dict(), type(configuration)().to_dict()
    told = {key: value for key, value in ours.items() if key not in MOVES_NO_LOGIT and value != defaults.get(key)}
    return json.dumps(told, sort_keys=True, default=str)
