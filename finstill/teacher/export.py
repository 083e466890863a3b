"""Turning a checkpoint into an ONNX graph, and proving the two equal."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from finstill.config.settings import rename_old_keys
from finstill.corpus.provenance import TableProvenance, made_by, require_together
from finstill.corpus.tokenizer import TOKENIZER_FILE, read_tokenizer, tokenizer_identity
from finstill.errors import InputError
from finstill.files import digest, read_json, standing_folder, whole_folder, write_json
from finstill.inference.arithmetic import arithmetic
from finstill.inference.batching import LENGTH_STEP
from finstill.inference.export import export_onnx
from finstill.inference.parity import Parity, graph_parity, own_provider
from finstill.inference.session import CPU_PROVIDER, GRAPH_FILES, OnnxClassifier
from finstill.teacher.checkpoint import class_names, load_classifier, longest_text, word_embeddings
from finstill.teacher.fidelity import measure_fidelity
from finstill.teacher.fingerprint import configuration_identity, fingerprint_on, teacher_fingerprint
from finstill.teacher.float16 import halve_teacher
from finstill.teacher.imported import DESCRIPTION_FILE, ImportedTeacher
from finstill.teacher.int8 import fuse_teacher, quantize_teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEACHER_GRAPHS = {**GRAPH_FILES, "float16": "model.float16.onnx"}
"""How the graphs of a teacher are called, by precision."""

VARIANT = "fused-attention-3"
"""The way a graph is made from the weights. Another way may round otherwise, so it gets another name and cache."""

AUTO_TEXTS = 1024
"""Texts of the corpus on which `auto` measures, at most: half a minute of a base-size teacher on two cores."""

LEAST_AUTO_TEXTS = 300
"""On fewer, an agreement of 99% could be chance: 0.99 to the power of 300 is 0.05."""

TOO_FEW = "too few texts to tell"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherGraph:
    """An exported teacher.

    Attributes:
        folder: holds the graph, the tokenizer and this description.
        fingerprint: identifies every logit it gives; see `teacher_fingerprint`.
        labels: class names in the order of its logits.
        max_length: tokens a text is cut at.
        precision: of the graph that labels: `float32`, `int8` or `float16`.
        chosen: where `auto` chose the precision, why.
        source, revision: where its checkpoint came from.
        trained_on: data sets it was trained on.
        parameters: number of weights.
        provider: ONNX Runtime's, where the logits are that provider's own and the fingerprint says so; None where they
            are within rounding of the CPU's.
        arithmetic: what decided the last bits of its logits where it was made, as `finstill.inference.arithmetic` says
            it; empty in float32, and where an older version of Finstill wrote the description.
    """

    folder: Path
    fingerprint: str
    labels: tuple[str, ...]
    max_length: int
    precision: str
    source: str
    revision: str | None
    trained_on: tuple[str, ...]
    parameters: int
    provider: str | None = None
    chosen: str | None = None
    arithmetic: str = ""

    @property
    def graph(self) -> Path:
        """The graph that labels."""
        return self.folder / TEACHER_GRAPHS[self.precision]

    @property
    def float32_graph(self) -> Path:
        """The graph that is proved equal to the checkpoint, and that one of lower precision is measured against."""
        return self.folder / GRAPH_FILES["float32"]

    @classmethod
    def read(cls, folder: Path) -> TeacherGraph:
        folder = standing_folder(folder)
        values = read_json(folder / DESCRIPTION_FILE)
        rename_old_keys(values, cls.__name__)
        lists = {name: tuple(values[name]) for name in ("labels", "trained_on")}
        return cls(**{**values, "folder": folder, **lists})

    def open(self, provider: str) -> OnnxClassifier:
        """Return the classifier that labels, on ONNX Runtime's execution provider `provider`.

        Raises:
            InputError: this machine would give other logits than those that the fingerprint stands for.
        """
        if self.arithmetic and (here := arithmetic(self.precision)) != self.arithmetic:
            raise InputError(
                f"the teacher was made on another kind of processor or GPU, or by another ONNX Runtime, and its "
                f"{self.precision} logits would be others here: it was made with {self.arithmetic}, and this machine "
                f"computes with {here}",
                where=self.folder,
                remedy="Materialize teacher_onnx again, or set teacher.precision to float32",
            )
        return OnnxClassifier(self.graph, provider=provider)


AnyTeacher = TeacherGraph | ImportedTeacher


def read_teachers(first: Path, ensemble: Path) -> list[AnyTeacher]:
    """Return the teacher in `first` and, in their order, those in the numbered folders of `ensemble`.

    Where there are several, each bears the fingerprint of its own logits; `ensemble_fingerprint` is that of their mean.
    """
    further = sorted((folder for folder in ensemble.glob("[1-9]*")), key=lambda folder: int(folder.name))
    return [_read_teacher(folder) for folder in (first, *further)]


def _read_teacher(folder: Path) -> AnyTeacher:
    # The description of a graph alone has a precision.
    is_graph = "precision" in read_json(folder / DESCRIPTION_FILE)
    return TeacherGraph.read(folder) if is_graph else ImportedTeacher.read(folder)


def ensemble_fingerprint(teachers: Sequence[AnyTeacher]) -> str:
    """Return what identifies the mean of the teachers' logits; of one alone, its own fingerprint."""
    first, *others = (teacher.fingerprint for teacher in teachers)
    return digest(first, *others) if others else first


def require_answers_of(teachers: Sequence[AnyTeacher], teacher_logits: Path) -> None:
    """Refuse a table of logits that these teachers did not give, or of texts that the first of them reads otherwise.

    Raises:
        InputError: names the table and the first teacher's folder, and what each says; or the table says nothing.
    """
    first, said = teachers[0], TableProvenance.read(teacher_logits)
    tokenizer = tokenizer_identity(read_tokenizer(first.folder))
    theirs = TableProvenance(tokenizer, first.max_length, said.long, tuple(each.fingerprint for each in teachers))
    require_together(teacher_logits, said, first.folder, theirs, f"Materialize {made_by(teacher_logits)} again")


def export_teacher(
    checkpoint: Path,
    folder: Path,
    *,
    max_length: int,
    source: str,
    precision: str = "float32",
    revision: str | None = None,
    trained_on: Sequence[str] = (),
    provider: str = CPU_PROVIDER,
    sample: Sequence[Sequence[int]] = (),
    token_budget: int = 1024,
) -> TeacherGraph:
    """Export the classifier in `checkpoint` to the folder `folder`, whole or not at all.

    A teacher that stands there already with the same fingerprint is kept.

    Args:
        max_length: texts are cut at this many tokens.
        precision: `float32`, or `int8` or `float16` to label with such a graph; the float32 one is kept beside it. Or
            `auto`, for int8 on a CPU and float16 elsewhere where their labels hold on `sample` (see
            `finstill.teacher.fidelity`), and float32 where they do not. What was measured for a checkpoint stays so,
            lest another sample near a limit begin the cache anew.
        source, revision, trained_on: where the checkpoint came from and what it was trained on, for people.
        provider: ONNX Runtime's execution provider that the teacher labels on. Where it gives other logits than the CPU
            on `sample`, it is part of the fingerprint.
        sample: token ids, special tokens included, in batches of `token_budget` tokens. For `auto`, of texts that the
            checkpoint was not fine-tuned on.

    Raises:
        InputError: see `load_classifier` and `read_tokenizer`; or the model reads fewer tokens than `max_length`, or
            knows fewer than the tokenizer gives; or the provider cannot be used here, or not with this `max_length`.
    """
    model = load_classifier(checkpoint)
    longest = longest_text(model)
    if longest is not None and max_length > longest:
        raise InputError(
            f"teacher.max_length is {max_length}, and the model reads {longest} tokens at most",
            where=checkpoint,
            remedy=f"Set teacher.max_length to {longest} or less",
        )
    if provider != CPU_PROVIDER and max_length % LENGTH_STEP:
        raise InputError(
            f"teacher.max_length is {max_length}, and {provider} reads multiples of {LENGTH_STEP} tokens",
            where=checkpoint,
            remedy=f"Set teacher.max_length to a multiple of {LENGTH_STEP}",
        )
    tokenizer = read_tokenizer(checkpoint)
    known = len(word_embeddings(model))
    if (given := tokenizer.get_vocab_size(with_added_tokens=False)) > known:
        raise InputError(
            f"the tokenizer has {given:,} tokens, and the model has vectors for {known:,}: they do not belong together",
            where=checkpoint,
            remedy="Copy the tokenizer's files from where the weights came from",
        )
    labels = class_names(model)
    teacher = TeacherGraph(
        folder, "", labels, max_length, precision, source, revision, tuple(trained_on), model.num_parameters()
    )

    @cache  # Of a large teacher it reads a gigabyte.
    def identify(precision: str) -> str:
        return teacher_fingerprint(
            model.state_dict(),
            configuration=configuration_identity(model.config),
            tokenizer=tokenizer_identity(tokenizer),
            max_length=max_length,
            precision=precision,
            variant=VARIANT,
            labels=labels,
            computed_by=f"{provider} {token_budget}" if precision == "float16" else "",
        )

    def write(made: Path, precision: str, own: str | None, chosen: str | None) -> TeacherGraph:
        fingerprint = fingerprint_on(identify(precision), own)
        labelling = replace(
            teacher,
            fingerprint=fingerprint,
            precision=precision,
            provider=own,
            chosen=chosen,
            arithmetic=arithmetic(precision),
        )
        write_json(made / DESCRIPTION_FILE, {**asdict(labelling), "folder": None})
        return labelling

    lower = "int8" if provider == CPU_PROVIDER else "float16"
    existing = read_json(folder / DESCRIPTION_FILE) if (folder / DESCRIPTION_FILE).is_file() else None
    if existing is not None:
        own, chosen = existing.get("provider"), existing.get("chosen") if precision == "auto" else None
        measured = chosen is not None and not (chosen.startswith(TOO_FEW) and len(sample) >= LEAST_AUTO_TEXTS)
        wanted = existing["precision"] if measured and existing["precision"] in ("float32", lower) else precision
        if (
            wanted != "auto"
            and existing["fingerprint"] == fingerprint_on(identify(wanted), own)
            and all((folder / TEACHER_GRAPHS[each]).is_file() for each in ("float32", wanted))
        ):
            if own != provider:
                # What was found of this provider then stays so: near the limit, another sample might find otherwise.
                own = own_provider(folder / TEACHER_GRAPHS[wanted], provider, sample, token_budget)
            labelling = write(folder, wanted, own, chosen)
            logger.info("teacher_onnx: unchanged, fingerprint %s", labelling.fingerprint)
            return labelling
    with whole_folder(folder) as unfinished:
        exported = unfinished / "exported.onnx"
        graphs = {name: unfinished / file for name, file in TEACHER_GRAPHS.items()}
        logger.info("teacher_onnx: exports the checkpoint of %s parameters", f"{teacher.parameters:,}")
        export_graph(model, exported)
        fuse_teacher(exported, graphs["float32"])
        made = lower if precision == "auto" else precision
        if made != "float32":
            logger.info("teacher_onnx: makes the %s graph", made)
        if made == "int8":
            quantize_teacher(exported, graphs["int8"])
        elif made == "float16":
            halve_teacher(graphs["float32"], graphs["float16"])
        exported.unlink()
        tokenizer.save(str(unfinished / TOKENIZER_FILE))
        chosen = None
        if precision == "auto":
            precision, chosen = _choose(graphs, lower, sample, token_budget, provider)
            logger.info("teacher_onnx: %s labels: %s", precision, chosen)
            if precision == "float32":
                graphs[lower].unlink()
        own = own_provider(graphs[precision], provider, sample, token_budget)
        labelling = write(unfinished, precision, own, chosen)
    logger.info(
        "teacher_onnx: exported, %s tokens of vocabulary, fingerprint %s",
        f"{tokenizer.get_vocab_size():,}",
        labelling.fingerprint,
    )
    return labelling


def _choose(
    graphs: Mapping[str, Path], lower: str, sample: Sequence[Sequence[int]], token_budget: int, provider: str
) -> tuple[str, str]:
    """Return which of two graphs labels, float32's or that of `lower` precision, and why."""
    if len(sample) < LEAST_AUTO_TEXTS:
        return "float32", f"{TOO_FEW} how {lower} labels: {len(sample)}"
    measured = measure_fidelity(graphs[lower], graphs["float32"], sample, token_budget, provider)
    return (lower if measured.holds else "float32"), f"in {lower}, {measured}"


def prove_teacher(
    teacher: TeacherGraph, model: PreTrainedModel, rows: Sequence[Sequence[int]], token_budget: int, provider: str
) -> Parity:
    """Compare the float32 graph with the checkpoint that it was made from, on the provider that labels.

    Where the fingerprint says that the provider's logits are its own, the graph is proved on the CPU, and the provider
    must name the same class of each row.

    Args:
        rows: token ids, special tokens included.
        token_budget: tokens of one batch, padding included.
        provider: ONNX Runtime's execution provider that the teacher labels on.
    """

    logger.info("teacher_onnx: compares the graph with its checkpoint on %s texts", f"{len(rows):,}")

    def on(each: str) -> Parity:
        return graph_parity(
            OnnxClassifier(teacher.float32_graph, provider=each).logits(rows, token_budget), model, rows
        )

    there = on(provider)
    return there if teacher.provider is None else replace(on(CPU_PROVIDER), argmax_agreement=there.argmax_agreement)


def export_graph(model: PreTrainedModel, path: Path) -> None:
    """Write `model` to `path` as ONNX with free batch and sequence lengths."""
    import torch

    class Logits(torch.nn.Module):
        """The classifier as a function of ids and mask alone."""

        def __init__(self) -> None:
            super().__init__()
            self.classifier = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits

    export_onnx(Logits(), ["logits"]).save(path, external_data=False)
