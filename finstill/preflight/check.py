"""`finstill check`: reading a profile, its corpus and its teachers, and telling what a run would do, in about a minute.

Nothing is written but what the caller writes of the report: tables and graphs go to a temporary folder.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.cache.cache import SoftLabelCache, teachers
from finstill.cache.imported import find_imported
from finstill.cache.joins import first_positions
from finstill.config.architectures import TEACHER
from finstill.config.profile import Member, Profile, Teacher, read_profile
from finstill.config.recipe import Recipe, read_recipes
from finstill.config.task import class_groups, task_logits
from finstill.config.workspace import Workspace
from finstill.corpus.build import read_corpus, texts_by_split_and_label, write_corpus
from finstill.corpus.out_of_domain import build_out_of_domain
from finstill.corpus.report import BadRows
from finstill.corpus.soundness import faults
from finstill.corpus.sources import read_rows
from finstill.corpus.splits import SPLITS
from finstill.corpus.tokenizer import load_tokenizer, unknown_id
from finstill.corpus.tokens import NOTABLE_UNKNOWN_SHARE, TokensReport, texts_read, tokenize_corpus
from finstill.errors import InputError
from finstill.files import remove_folder
from finstill.inference.parity import PARITY_TEXTS
from finstill.inference.session import OnnxClassifier
from finstill.quiet import quiet_transformers
from finstill.teacher.checkpoint import Checkpoint, load_classifier, resolve_checkpoint
from finstill.teacher.classes import judge_classifier, require_matching_classes
from finstill.teacher.export import AUTO_TEXTS, TeacherGraph, export_teacher
from finstill.teacher.fidelity import measure_fidelity
from finstill.teacher.imported import require_enough
from finstill.training.fine_tune import untrained_classifier
from finstill.training.rows import TrainingRows, training_rows
from finstill.training.samples import labelled_answers, rows_not_learned

SAMPLE = 256
"""Texts on which a teacher is timed, and labelled ones on which it is judged."""

NOTABLE_CUT_SHARE = 0.05
LEAST_VALIDATION_ROWS = 50
"""Labelled validation texts below which hardly any difference can be shown."""

LENGTHS = (0.5, 0.9, 0.99, 1.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Something to look at before a run.

    Attributes:
        severity: `stops` where a run would stop, else `warning`.
        message: what is wrong, where, and what to do.
    """

    severity: Literal["stops", "warning"]
    message: str


@dataclass
class TeacherReport:
    """What was found of one teacher.

    Attributes:
        checkpoint: as the profile names it; of an imported teacher, the name it was imported under.
        fine_tuned: whether it is fine-tuned on the corpus first; then nothing is known of its answers yet, and what the
            cache holds of it is not counted.
        revision: commit on the hub, or None for a folder.
        architecture: class of the model in transformers; empty where it could not be loaded, or was imported.
        classes: its class names, in the order of its logits.
        labels: for each of the task's labels the classes that count as it; empty where they do not match.
        unknown_share: share of the corpus's tokens that its tokenizer does not know.
        cut_share: share of the texts of which it would read only the beginning.
        lengths: quantiles of the number of tokens of what it reads at once, by probability.
        texts_in_windows, windows: texts that are read in several windows, and their windows.
        labelled_texts: labelled texts that it was judged on; 0 where it is fine-tuned first or no text has a label.
        accuracy, macro_f1, majority_accuracy, majority_macro_f1: of it and of the majority class on these.
        unseen_texts: texts and windows that the cache lacks.
        texts_per_second: measured on some of the corpus's texts, of the mean length of those that are unseen.
        labelling_seconds: what labelling the unseen ones would take on this machine.
    """

    checkpoint: str
    fine_tuned: bool = False
    revision: str | None = None
    architecture: str = ""
    classes: list[str] = field(default_factory=list)
    labels: dict[str, list[str]] = field(default_factory=dict)
    unknown_share: float | None = None
    cut_share: float | None = None
    lengths: dict[str, int] = field(default_factory=dict)
    texts_in_windows: int = 0
    windows: int = 0
    labelled_texts: int = 0
    accuracy: float | None = None
    macro_f1: float | None = None
    majority_accuracy: float | None = None
    majority_macro_f1: float | None = None
    unseen_texts: int = 0
    texts_per_second: float | None = None
    labelling_seconds: float = 0.0


@dataclass
class CheckReport:
    """What a run of a profile would do.

    Attributes:
        profile: the profile's file.
        understood: how the corpus's files are read: columns, encodings, delimiters.
        rows: rows in the corpus's source.
        texts: texts that would be in the corpus.
        dropped: rows that would be dropped or merged, by reason.
        examples: for each reason the first places and texts.
        labels: texts of each label.
        unlabelled: texts without a label.
        splits: texts of each split and label, as `{split: {label: texts}}`; the label of an unlabelled text is "".
        teacher: the first teacher.
        ensemble: further teachers.
        augmented_at_most: texts that augmentation would add at most; they reach the teacher too.
        unseen_texts: texts and windows of the corpus that the caches lack, over all teachers.
        labelling_seconds: what labelling them would take on this machine.
        students: names of the recipes.
        problems: what is wrong, what stops a run first.
    """

    profile: str
    understood: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    texts: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    teacher: TeacherReport | None = None
    ensemble: list[TeacherReport] = field(default_factory=list)
    augmented_at_most: int = 0
    unseen_texts: int = 0
    labelling_seconds: float = 0.0
    students: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        """Whether a run would stop."""
        return any(problem.severity == "stops" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def warn(self, message: str) -> None:
        self.problems.append(Problem("warning", message))

    def stop(self, message: str) -> None:
        self.problems.append(Problem("stops", message))

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Turn an `InputError` of the block into a problem, so that what follows is looked at too."""
        try:
            yield
        except InputError as error:
            self.stop(str(error))


def check_profile(path: Path, home: Path, cache: str) -> CheckReport:
    """Return what a run of the profile `path` would do.

    Args:
        home: the folder of all profiles' artefacts: a teacher's graph that stands there is not made again.
        cache: root of the caches.
    """
    report = CheckReport(str(path))
    with report.reported(), tempfile.TemporaryDirectory(prefix="finstill-check-") as folder:
        profile = read_profile(path)
        with report.reported():
            recipes = _students(profile, report)
            report.students = list(recipes)
        scratch = Workspace(Path(folder))
        corpus = None
        with report.reported():
            corpus = _corpus(profile, scratch, report)
        workspace = Workspace.of_profile(home, path)
        if report.students:
            _require_recipe_to_tune(profile, recipes, workspace, report)
        if corpus is not None and report.students:
            _require_labels_of_baselines(profile, recipes, report)
            with report.reported():
                _students_tokenizers(profile, recipes, corpus, report)
        if corpus is not None:
            with report.reported():
                _out_of_domain(profile, scratch)
        first, further = profile.teacher, profile.teacher.ensemble
        report.teacher = TeacherReport(first.name)
        report.ensemble = [TeacherReport(member.name) for member in further]
        folders = [workspace.teacher_onnx, *(workspace.teacher_ensemble / str(i) for i in range(1, 1 + len(further)))]
        members: list[Teacher | Member] = [first, *further]
        for member, found, made in zip(members, (report.teacher, *report.ensemble), folders, strict=True):
            with report.reported():
                _teacher(profile, member, made, corpus, scratch, cache, found, report)
        report.unseen_texts = sum(found.unseen_texts for found in (report.teacher, *report.ensemble))
        report.labelling_seconds = sum(found.labelling_seconds for found in (report.teacher, *report.ensemble))
    report.problems.sort(key=lambda problem: problem.severity)
    return report


def _students(profile: Profile, report: CheckReport) -> dict[str, Recipe]:
    recipes = read_recipes(profile.recipes, labels=profile.task.labels)
    from_labels = [name for name, recipe in recipes.items() if recipe.alpha == 0]
    if from_labels and profile.corpus.label is None:
        report.stop(
            f"{profile.recipes}: {', '.join(from_labels)} would learn from labels alone (alpha: 0), and the corpus "
            "has none. Remove these recipes, or name corpus.label"
        )
    return recipes


def _require_recipe_to_tune(
    profile: Profile, recipes: Mapping[str, Recipe], workspace: Workspace, report: CheckReport
) -> None:
    """Tell where the search has no recipe to start from, or one that learns from no teacher."""
    if profile.tuning is None:
        return
    name = profile.tuning.recipe
    if name in recipes:
        if recipes[name].alpha == 0:
            report.stop(f"tuning.recipe: '{name}' learns from no teacher (alpha: 0): there is no temperature to tune")
    # What an earlier search found is the recipe `tuned`, without standing in the file.
    elif name != "tuned" or not workspace.tuning.is_dir():
        report.stop(f"tuning.recipe: there is no recipe '{name}' in {profile.recipes}; there are {list(recipes)}")


def _require_labels_of_baselines(profile: Profile, recipes: Mapping[str, Recipe], report: CheckReport) -> None:
    """Tell where label-only baselines would find no label to learn from, or to choose their epoch by."""
    from_labels = [name for name, recipe in recipes.items() if recipe.alpha == 0]
    if not from_labels or profile.corpus.label is None:
        return
    for split in ("train", "validation"):
        if not any(count for label, count in report.splits[split].items() if label):
            report.stop(
                f"{profile.recipes}: {', '.join(from_labels)} would learn from labels alone (alpha: 0), and no text of "
                f"the {split} split has one. Label some texts, or remove these recipes"
            )


def _students_tokenizers(
    profile: Profile, recipes: Mapping[str, Recipe], corpus: pa.Table, report: CheckReport
) -> None:
    """Warn of students that would not know much of the corpus's words."""
    by_checkpoint: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        if recipe.architecture.checkpoint != TEACHER:
            by_checkpoint.setdefault(recipe.architecture.checkpoint, []).append(name)
    texts = corpus["text"][:SAMPLE].to_pylist()
    for checkpoint, names in by_checkpoint.items():
        folder = resolve_checkpoint(checkpoint, where="architecture.checkpoint").folder
        tokenizer = load_tokenizer(folder, profile.teacher.max_length)
        unknown = unknown_id(tokenizer)
        ids = np.concatenate([encoding.ids for encoding in tokenizer.encode_batch(texts)])
        if unknown is not None and (share := float((ids == unknown).mean())) > NOTABLE_UNKNOWN_SHARE:
            report.warn(
                f"{profile.recipes}: {share:.1%} of the corpus's tokens are unknown to the tokenizer of "
                f"'{checkpoint}', by which {', '.join(names)} would read. Set architecture.checkpoint to {TEACHER}"
            )


def _corpus(profile: Profile, scratch: Workspace, report: CheckReport) -> pa.Table:
    """Build the corpus in the scratch folder and report on it."""
    logger.info("check: reading the corpus")
    built = read_corpus(profile.corpus, profile.task.labels, scratch.corpus, corrections=profile.corrections)
    texts = pq.read_table(scratch.corpus)
    report.rows, report.texts = built.read, built.kept
    report.understood = built.source.files
    for name in built.source.unknown:
        why = built.source.reasons.get(name, "no reader knows such a file")
        report.warn(f"corpus: {name} is passed over: {why}")
    if built.source.empty:
        report.warn(f"corpus: {len(built.source.empty):,} files are empty and passed over, as {built.source.empty[0]}")
    report.dropped, report.examples = dict(built.reasons), dict(built.examples)
    counts = texts_by_split_and_label(scratch.corpus)
    report.splits = {
        split: {str(label or ""): count for (of, label), count in sorted(counts.items(), key=str) if of == split}
        for split in SPLITS
    }
    report.labels = {
        label: sum(count for (_, given), count in counts.items() if given == label) for label in profile.task.labels
    }
    report.unlabelled = sum(count for (_, label), count in counts.items() if label is None)
    if profile.corpus.label is None:
        report.labels = {}
    train = texts.filter(pc.equal(texts["split"], "train"))
    origins = len(train) - train["label"].null_count if profile.augmentation.origins == "labelled" else len(train)
    report.augmented_at_most = profile.augmentation.variants_per_text * origins
    for fault in faults(scratch.corpus, profile.task.labels):
        report.stop(f"corpus: {fault}")
    validation = sum(count for (split, label), count in counts.items() if split == "validation" and label is not None)
    if report.labels and validation < LEAST_VALIDATION_ROWS:
        report.warn(
            f"corpus: {validation:,} validation texts have a label, and hardly any difference can be shown on so few. "
            "Label more texts"
        )
    if profile.teacher.trained_on and profile.corpus.name is None:
        report.warn(
            f"corpus.name: the teacher was trained on {', '.join(profile.teacher.trained_on)}, and the corpus has no "
            "name. If it is one of these, write its name there: reports then mark the teacher's figures as contaminated"
        )
    return texts


def _out_of_domain(profile: Profile, scratch: Workspace) -> None:
    """Build the out-of-domain set in the scratch folder, as a run does, where the profile names one."""
    source = profile.out_of_domain
    if source is None:
        return
    logger.info("check: reading the out-of-domain set")
    labels, corpus = profile.task.labels, scratch.corpus
    texts, _ = build_out_of_domain(read_rows(source), labels, source.label_names, corpus, BadRows.of(source))
    write_corpus(texts, scratch.out_of_domain.corpus)


def _teacher(
    profile: Profile,
    member: Teacher | Member,
    made: Path,
    corpus: pa.Table | None,
    scratch: Workspace,
    cache: str,
    found: TeacherReport,
    report: CheckReport,
) -> None:
    """Report on one teacher; without a corpus, on what its checkpoint alone tells."""
    settings = profile.teacher
    logger.info("check: reading the teacher %s", member.name)
    if member.imported is not None:
        if member is settings and corpus is not None:
            start = resolve_checkpoint(settings.starting_checkpoint, settings.revision)
            _tokens(profile, start, corpus, scratch, found, report)
        _imported(profile, find_imported(cache, member.imported), corpus, scratch, found, report)
        return
    checkpoint = resolve_checkpoint(member.name, member.revision)
    found.revision = checkpoint.revision
    tokens = _tokens(profile, checkpoint, corpus, scratch, found, report) if corpus is not None else None
    fine_tuned = found.fine_tuned = member is settings and settings.fine_tune is not None
    if fine_tuned and corpus is not None:
        _require_rows_to_learn_from(profile, report)
    folder = scratch.root / "checkpoint"
    if fine_tuned:
        # Timed with a head that knows nothing: what fine-tuning makes of the weights changes no time.
        model = untrained_classifier(checkpoint, profile.task.labels, profile.seed)
        with quiet_transformers():
            model.save_pretrained(folder)
        load_tokenizer(checkpoint.folder, settings.max_length).save(str(folder / "tokenizer.json"))
    else:
        folder = checkpoint.folder
    logger.info("check: exporting the teacher")
    precision = settings.precision if member is settings else "float32"
    rows: Mapping[str, TrainingRows] = {}
    sample: Sequence[Sequence[int]] = []
    if tokens is not None:
        rows = training_rows(scratch.corpus, scratch.tokens, profile.task)
        sample = tokens["input_ids"][:PARITY_TEXTS].to_pylist()
        if precision == "auto":
            # That is of the first teacher, whose tokens the rows are.
            sample = rows_not_learned(rows, AUTO_TEXTS)
    remove_folder(scratch.teacher_onnx)
    if made.is_dir() and not fine_tuned:
        shutil.copytree(made, scratch.teacher_onnx)
    graph = export_teacher(
        folder,
        scratch.teacher_onnx,
        max_length=settings.max_length,
        source=member.name,
        precision=precision,
        provider=settings.execution_provider,
        sample=sample,
        token_budget=settings.token_budget,
    )
    found.architecture = type(load_classifier(folder)).__name__
    found.classes = list(profile.task.labels if fine_tuned else graph.labels)
    if corpus is None or tokens is None:
        return
    if not fine_tuned:
        _judge(profile, graph, rows, found, report)
    _time(profile, graph, tokens, None if fine_tuned else graph.fingerprint, cache, found)
    if graph.precision != "float32" and graph.chosen is None and not fine_tuned:
        some = rows["test"].input_ids[:SAMPLE]
        measured = measure_fidelity(
            graph.graph, graph.float32_graph, some, settings.token_budget, settings.execution_provider
        )
        if not measured.holds:
            report.stop(f"teacher.precision: in {graph.precision}, {measured}. Set teacher.precision to float32")


def _tokens(
    profile: Profile,
    checkpoint: Checkpoint,
    corpus: pa.Table,
    scratch: Workspace,
    found: TeacherReport,
    report: CheckReport,
) -> pa.Table:
    """Tokenize the corpus as this teacher reads it, report on it, and return keys and lengths of what is read."""
    settings = profile.teacher
    tokenizer = load_tokenizer(checkpoint.folder, settings.max_length)
    texts, tokens, long = scratch.corpus, scratch.tokens, settings.long
    if tokens.is_file():
        # A further teacher of an ensemble reads the windows that the first one's tokenizer cuts.
        texts, tokens, long = scratch.root / "read.parquet", scratch.root / "further.parquet", "cut"
        write_corpus(texts_read(scratch.corpus, scratch.tokens), texts)
    counts: TokensReport = tokenize_corpus(texts, tokenizer, tokens, long)
    read = pq.read_table(tokens, columns=["key", "input_ids", "n_tokens"])
    lengths = np.sort(read["n_tokens"].to_numpy())
    found.lengths = {f"{p:g}": int(np.quantile(lengths, p, method="lower")) for p in LENGTHS}
    found.unknown_share, found.cut_share = counts.unknown_share, counts.cut_share
    found.texts_in_windows, found.windows = counts.long, counts.windows
    if counts.unknown_share > NOTABLE_UNKNOWN_SHARE:
        report.warn(
            f"teacher.checkpoint: {counts.unknown_share:.1%} of the corpus's tokens are unknown to the tokenizer of "
            f"{found.checkpoint}, as in “{counts.examples[0]}”. Choose a teacher that was trained on the corpus's "
            "language, and on text with capital letters where they matter"
        )
    if counts.cut_share > NOTABLE_CUT_SHARE:
        report.warn(
            f"teacher.max_length: {counts.cut_share:.1%} of the texts are longer than {settings.max_length} tokens and "
            "would be cut there. Set teacher.long to windows, or raise teacher.max_length"
        )
    return read


def _require_rows_to_learn_from(profile: Profile, report: CheckReport) -> None:
    train, validation = report.splits.get("train", {}), report.splits.get("validation", {})
    if missing := [label for label in profile.task.labels if not train.get(label)]:
        report.stop(
            f"teacher.fine_tune: no labelled row of the train split is {' or '.join(missing)}, so no teacher can learn "
            "it. Label some rows, or name a trained classifier as teacher.checkpoint"
        )
    if not any(count for label, count in validation.items() if label):
        report.stop(
            "teacher.fine_tune: the validation split has no labelled row to choose the best epoch by. Label some of "
            "its rows, or name a trained classifier as teacher.checkpoint"
        )


def _judge(
    profile: Profile, graph: TeacherGraph, rows: Mapping[str, TrainingRows], found: TeacherReport, report: CheckReport
) -> None:
    """Match the teacher's classes to the labels and compare it with the majority class on labelled texts."""
    labels, logits = labelled_answers(rows, graph, profile.teacher.token_budget)
    require_matching_classes(profile.task, graph.labels, lambda: (labels, logits))
    _place(profile, found)
    if len(labels):
        _compare(labels, task_logits(logits, profile.task, graph.labels), profile, found, report)


def _imported(
    profile: Profile,
    cache: SoftLabelCache,
    corpus: pa.Table | None,
    scratch: Workspace,
    found: TeacherReport,
    report: CheckReport,
) -> None:
    """Report on a teacher whose answers are in the cache: which texts have none, and how good the others are."""
    found.classes = list(cache.labels)
    _place(profile, found)
    if profile.augmentation.variants_per_text:
        report.warn(
            f"augmentation.variants_per_text: '{found.checkpoint}' was imported and cannot be asked about augmented "
            "texts. A run stops unless their rows were imported too; set it to 0"
        )
    if corpus is None:
        return
    absent = np.zeros(len(corpus), bool)
    absent[cache.unseen(corpus["key"])] = True
    with report.reported():
        without, missing = corpus["key"].filter(pa.array(absent)), profile.teacher.missing
        require_enough(found.checkpoint, cache, scratch.corpus, without.combine_chunks(), missing)
        if len(without):
            report.warn(
                f"teacher.missing: {len(without):,} of {len(corpus):,} texts are left out of training and evaluation, "
                f"since '{found.checkpoint}' has no row of them"
            )
    measured_on = scratch.out_of_domain.corpus
    if measured_on.is_file():
        with report.reported():
            keys = pq.read_table(measured_on, columns=["key"])["key"]
            without = keys.take(pa.array(cache.unseen(keys)))
            require_enough(found.checkpoint, cache, measured_on, without.combine_chunks(), profile.teacher.missing)
    judged = ~absent & corpus["label"].is_valid().to_numpy()
    validation = judged & pc.equal(corpus["split"], "validation").to_numpy(zero_copy_only=False)
    rows = corpus.filter(pa.array(validation if validation.any() else judged))[:SAMPLE]
    if len(rows):
        labels = pc.index_in(rows["label"], pa.array(profile.task.labels)).to_numpy().astype(np.int64)
        logits = task_logits(cache.lookup(rows["key"]), profile.task, cache.labels)
        _compare(labels, logits, profile, found, report)


def _place(profile: Profile, found: TeacherReport) -> None:
    """Report which of the teacher's classes count as which label; an error where they do not match."""
    groups = class_groups(profile.task, found.classes)
    found.labels = {
        label: [found.classes[position] for position in group]
        for label, group in zip(profile.task.labels, groups, strict=True)
    }


def _compare(
    labels: np.ndarray, logits: np.ndarray, profile: Profile, found: TeacherReport, report: CheckReport
) -> None:
    """Report how good a teacher's answers, (rows, task labels), are beside the majority class."""
    judgement = judge_classifier(labels, logits, profile.task.labels)
    found.labelled_texts = judgement.rows
    found.accuracy, found.macro_f1 = judgement.accuracy, judgement.macro_f1
    found.majority_accuracy, found.majority_macro_f1 = judgement.majority_accuracy, judgement.majority_macro_f1
    if judgement.verdict == "worse":
        report.stop(f"teacher {found.checkpoint}: {judgement}")
    elif judgement.verdict == "no difference shown":
        report.warn(f"teacher {found.checkpoint}: {judgement}")


def _time(
    profile: Profile, graph: TeacherGraph, read: pa.Table, fingerprint: str | None, cache: str, found: TeacherReport
) -> None:
    """Count what the cache lacks, and time the teacher on some of it."""
    if fingerprint is not None and fingerprint in teachers(cache):
        unseen = read.take(pa.array(SoftLabelCache.open(cache, fingerprint).unseen(read["key"])))
    else:
        unseen = read.take(pa.array(first_positions(read["key"])))
    found.unseen_texts = unseen.num_rows
    if not unseen.num_rows:
        return
    logger.info("check: timing the teacher")
    # Keys are hashes, so that the first ones are a random sample.
    sample = unseen.slice(0, SAMPLE)
    classifier = OnnxClassifier(graph.graph, provider=profile.teacher.execution_provider)
    ids = sample["input_ids"].to_pylist()
    # The first batch pays for what later ones find ready.
    classifier.logits(ids[:8], profile.teacher.token_budget)
    started = time.perf_counter()
    classifier.logits(ids, profile.teacher.token_budget)
    seconds = time.perf_counter() - started
    share = pc.sum(unseen["n_tokens"]).as_py() / pc.sum(sample["n_tokens"]).as_py()
    found.labelling_seconds = seconds * share
    found.texts_per_second = unseen.num_rows / max(found.labelling_seconds, 1e-9)
