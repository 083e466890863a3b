"""Out-of-domain texts: what a student is worth where it never learned."""

import shutil
from collections import Counter

from dagster import AssetExecutionContext, DataVersion, MaterializeResult, MetadataValue, asset

from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, table
from assets.resources import ProfileResource
from assets.teacher import teacher_ensemble, teacher_onnx
from assets.teacher_logits import label_tables


@asset(
    deps=[corpus, teacher_onnx, teacher_ensemble],
    group_name="evaluation",
    kinds={"onnx", "parquet"},
    owners=OWNERS,
    code_version="2",
    pool="teacher",
)
@explain_faults
def out_of_domain(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """A second labelled corpus, with what the teacher says of it: students are measured on it, and none learns from it.

    Near-duplicates of train texts are left out. Where the profile names no such corpus, there is nothing to make.
    """
    from finstill.corpus.build import write_corpus
    from finstill.corpus.out_of_domain import build_out_of_domain
    from finstill.corpus.report import BadRows, write_bad_rows
    from finstill.corpus.sources import read_rows
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import tokenize_corpus
    from finstill.files import digest
    from finstill.teacher.export import read_teachers

    settings, workspace = profile.profile(), profile.workspace
    source, made = settings.out_of_domain, workspace.out_of_domain
    if source is None:
        shutil.rmtree(made.root, ignore_errors=True)
        return MaterializeResult(metadata={"texts": 0}, data_version=DataVersion("none"))
    texts, report = build_out_of_domain(
        read_rows(source), settings.task.labels, source.label_names, workspace.corpus, BadRows.of(source)
    )
    write_corpus(texts, made.corpus)
    write_bad_rows(report.set_aside, made.bad_rows)
    teacher, *_ = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    tokenizer = load_tokenizer(teacher.folder, teacher.max_length)
    tokenize_corpus(made.corpus, tokenizer, made.tokens, settings.teacher.long)
    labelling, _ = label_tables(context.instance, profile, {made.tokens: made.corpus}, made.teacher_logits)
    counts = Counter(texts["label"].to_pylist())
    return MaterializeResult(
        metadata={
            "name": source.name,
            "texts": report.kept,
            "contaminated": settings.is_contaminated(source),
            "texts_by_label": table([{"label": label, "texts": count} for label, count in sorted(counts.items())]),
            "dropped_or_merged": table([{"reason": why, "rows": rows} for why, rows in report.reasons.items()]),
            "rows_reached_by_the_teacher": labelling.labelled,
            **({"bad_rows": MetadataValue.path(str(made.bad_rows))} if report.set_aside else {}),
        },
        data_version=DataVersion(digest(made.corpus, made.teacher_logits)),
    )
