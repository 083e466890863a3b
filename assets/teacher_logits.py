"""What the teacher says of each text, and the checks that stop a run before a student learns from it."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
    asset,
    asset_check,
)

from assets.augmented_corpus import augmented_corpus
from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS
from assets.resources import ProfileResource
from assets.teacher import require_proved, teacher_ensemble, teacher_onnx, tokens

if TYPE_CHECKING:
    from finstill.cache.cache import SoftLabelCache
    from finstill.cache.labelling import LabellingReport
    from finstill.teacher.export import AnyTeacher

LOGITS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "the text's key"),
        TableColumn("logits", "list<float32>", "in the teacher's label order"),
    ]
)

LOGITS_LINEAGE = TableColumnLineage(
    {"key": [TableColumnDep("tokens", "key")], "logits": [TableColumnDep("tokens", "input_ids")]}
)


@asset(
    deps=[corpus, tokens, augmented_corpus, teacher_onnx, teacher_ensemble],
    group_name="labelling",
    kinds={"onnx", "parquet"},
    owners=OWNERS,
    code_version="2",
    pool="teacher",
    metadata={"dagster/column_schema": LOGITS_COLUMNS, "dagster/column_lineage": LOGITS_LINEAGE},
)
@explain_faults
def teacher_logits(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """What the teacher says of each text, the augmented ones too: only texts the cache has not seen reach it."""
    import pyarrow.parquet as pq

    from finstill.files import digest
    from finstill.training.rows import read_left_out

    workspace = profile.workspace
    started = time.monotonic()
    tables = {workspace.tokens: workspace.corpus, workspace.augmented: workspace.augmented}
    report, cache = label_tables(context.instance, profile, tables, workspace.teacher_logits)
    seconds = time.monotonic() - started
    left_out = read_left_out(pq.read_schema(workspace.teacher_logits))
    return MaterializeResult(
        metadata={
            "dagster/row_count": pq.read_metadata(workspace.teacher_logits).num_rows,
            "dagster/uri": workspace.teacher_logits.as_uri(),
            "texts": report.rows,
            **({"texts_left_out": left_out} if left_out else {}),
            "texts_augmented": pq.read_metadata(workspace.augmented).num_rows,
            "rows_reached_by_the_teacher": report.labelled,
            "cache_hit_rate": report.hit_rate,
            **({"texts_per_second": report.labelled / seconds} if report.labelled else {}),
            "cache": cache.where,
        },
        data_version=DataVersion(digest(workspace.teacher_logits)),
    )


def label_tables(
    instance: DagsterInstance, profile: ProfileResource, tables: Mapping[Path, Path], logits: Path
) -> "tuple[LabellingReport, SoftLabelCache]":
    """Write to `logits` what the teacher says of each row of token tables, from the cache where it can.

    An ensemble's teachers each read the same texts, and the windows of long ones as the first teacher's tokenizer cuts
    them, by their own tokenizer, and answer from their own cache; what is written is the mean. An imported teacher has
    answered; texts that it has no row of are left out, where the profile says so.

    Args:
        tables: token tables, each with the table that its texts stand in.

    Returns:
        What reached the teachers, and the cache of the first.

    Raises:
        InputError: a check has not proved the first teacher's graph, a table holds ids of another tokenizer or length
            than the teacher's, or an imported teacher has no row of a text that is not to be left out; no text reaches
            a teacher then.
    """
    from finstill.cache.ensemble import write_average_logits
    from finstill.cache.labelling import LabellingReport
    from finstill.corpus.build import write_corpus
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import texts_read, tokenize_corpus
    from finstill.teacher.export import read_teachers
    from finstill.teacher.imported import ImportedTeacher, missing_keys, write_without

    workspace = profile.workspace
    teachers = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    # The others of an ensemble are proved where their graphs are made.
    if not isinstance(teachers[0], ImportedTeacher):
        require_proved(instance, teachers[0])
    caches = {each.source: _cache(profile, each) for each in teachers if isinstance(each, ImportedTeacher)}
    missing = missing_keys(tables, caches, profile.profile().teacher.missing)
    with tempfile.TemporaryDirectory(dir=workspace.root) as name:
        folder = Path(name)
        if len(missing):
            # Under their names, by which messages tell what makes them.
            rest = {folder / ids.parent.name / ids.name: ids for ids in tables}
            for path, ids in rest.items():
                write_without(ids, missing, path)
            tables = {path: path if tables[ids] == ids else tables[ids] for path, ids in rest.items()}
        if len(teachers) == 1:
            return _label_by(profile, teachers[0], list(tables), logits, len(missing))
        report = LabellingReport(0, 0)
        own = [folder / f"tokens-{number}.parquet" for number in range(len(tables))]
        read = [folder / f"texts-{number}.parquet" for number in range(len(tables))]
        for (ids, texts), path in zip(tables.items(), read, strict=True):
            write_corpus(texts_read(texts, ids), path)
        parts = []
        for number, teacher in enumerate(teachers):
            reads = list(tables)
            if number and not isinstance(teacher, ImportedTeacher):
                tokenizer = load_tokenizer(teacher.folder, teacher.max_length)
                for texts, ids in zip(read, own, strict=True):
                    tokenize_corpus(texts, tokenizer, ids)
                reads = own
            parts.append(folder / f"logits-{number}.parquet")
            report += _label_by(profile, teacher, reads, parts[-1], len(missing))[0]
        write_average_logits(parts, profile.profile().task, logits)
    return report, _cache(profile, teachers[0])


def _label_by(
    profile: ProfileResource, teacher: "AnyTeacher", tables: Sequence[Path], logits: Path, left_out: int
) -> "tuple[LabellingReport, SoftLabelCache]":
    import pyarrow.parquet as pq

    from finstill.cache.labelling import LabellingReport, label_texts, write_logits
    from finstill.corpus.provenance import made_by, require_tokens_of
    from finstill.teacher.imported import ImportedTeacher

    if isinstance(teacher, ImportedTeacher):
        cache = _cache(profile, teacher)
        write_logits(tables, cache, logits, left_out)
        return LabellingReport(sum(pq.read_metadata(ids).num_rows for ids in tables), 0), cache
    for ids in tables:
        remedy = f"Materialize {made_by(ids)} and teacher_onnx again"
        require_tokens_of(ids, teacher.folder, teacher.max_length, remedy)
    cache, report = _cache(profile, teacher), LabellingReport(0, 0)
    settings = profile.profile().teacher
    provider, budget = settings.execution_provider, settings.token_budget
    for ids in tables:
        if profile.ray:
            from finstill.cache.on_ray import Work, label_texts_on_ray

            fingerprint, graph, precision = teacher.fingerprint, teacher.graph, teacher.precision
            work = Work(ids, profile.cache, fingerprint, graph, precision, provider, budget, teacher.arithmetic)
            report += label_texts_on_ray(profile.ray, cache, work)
        else:
            report += label_texts(ids, cache, lambda: teacher.open(provider), budget)
    write_logits(tables, cache, logits, left_out)
    return report, cache


def _cache(profile: ProfileResource, teacher: "AnyTeacher") -> "SoftLabelCache":
    from finstill.cache.cache import SoftLabelCache
    from finstill.teacher.imported import ImportedTeacher

    if isinstance(teacher, ImportedTeacher):
        return SoftLabelCache.open(profile.cache, teacher.fingerprint)
    about = {
        "source": teacher.source,
        "revision": teacher.revision or "",
        "max_length": str(teacher.max_length),
        "precision": teacher.precision,
    }
    return SoftLabelCache(profile.cache, teacher.fingerprint, teacher.labels, about)


@asset_check(asset=teacher_logits, blocking=True)
@explain_faults
def every_text_has_logits(profile: ProfileResource) -> AssetCheckResult:
    """Each text of the corpus and of the augmented one, or each of its windows, has one row of finite logits.

    Texts that an imported teacher has no row of, and that the profile leaves out, are counted.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from finstill.training.rows import read_left_out

    workspace = profile.workspace
    logits = pq.read_table(workspace.teacher_logits)
    left_out = read_left_out(logits.schema)
    finite = bool(np.isfinite(logits["logits"].combine_chunks().flatten().to_numpy()).all())
    rows = [pq.read_table(table, columns=["key"]) for table in (workspace.tokens, workspace.augmented)]
    keys = pa.concat_tables(rows)["key"]
    once = len(logits["key"].unique()) == len(logits) == len(keys.unique()) - left_out
    there = pc.is_in(keys, logits["key"].combine_chunks())
    covered = once and len(keys) - pc.sum(there, min_count=0).as_py() == left_out
    corpus_keys = pq.read_table(workspace.corpus, columns=["key"])["key"]
    covered &= pq.read_table(workspace.tokens, columns=["text_key"])["text_key"].unique().equals(corpus_keys.unique())
    return AssetCheckResult(
        passed=covered and finite,
        description=f"{len(keys):,} texts"
        + (f", {left_out:,} of them left out" if left_out else "")
        + f"; one row of logits for each: {covered}; all finite: {finite}.",
    )


@asset_check(asset=teacher_logits, blocking=True)
@explain_faults
def teacher_beats_the_majority_class(profile: ProfileResource) -> AssetCheckResult:
    """On the labelled validation texts the teacher is better than answering every text with the majority class."""
    from finstill.teacher.classes import judge_classifier
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    labelled = rows["validation"].labelled().whole_texts()
    if not len(labelled):
        return AssetCheckResult(
            passed=True, description="No validation text is labelled: there is nothing to judge by."
        )
    assert labelled.teacher_logits is not None
    judgement = judge_classifier(labelled.labels, labelled.teacher_logits, settings.task.labels)
    return AssetCheckResult(
        passed=judgement.verdict == "better",
        severity=AssetCheckSeverity.ERROR if judgement.verdict == "worse" else AssetCheckSeverity.WARN,
        description=str(judgement),
        metadata={
            "texts": judgement.rows,
            "accuracy": judgement.accuracy,
            "majority_accuracy": judgement.majority_accuracy,
            "macro_f1": judgement.macro_f1,
            "majority_macro_f1": judgement.majority_macro_f1,
        },
    )
