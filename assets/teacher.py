"""The teacher: where it comes from, what it reads, its checkpoint, its graph, and the checks that prove the graph."""

from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
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
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES

from assets.cancelling import stop_when_cancelled
from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, cell, picture, table
from assets.resources import ProfileResource

NO_REVISION = "a folder has none"

NO_GRAPH = "The teacher was imported: it has no graph."

TOKENS_COLUMNS = TableSchema(
    [
        TableColumn("key", "binary(16)", "the text's key, or the window's"),
        TableColumn("input_ids", "list<int32>", "token ids, special tokens included"),
        TableColumn("n_tokens", "int32", "number of token ids"),
        TableColumn("truncated", "bool", "whether the text was cut at the maximum length"),
    ]
)

CORPUS_TOKENS_COLUMNS = TableSchema(
    [
        *TOKENS_COLUMNS.columns,
        TableColumn("text_key", "binary(16)", "the key of the text that the row is of"),
        TableColumn("size", "int32", "number of tokens without the special ones"),
        TableColumn("window", "string", "the window's text, null where a text is read whole"),
    ]
)

TOKENS_LINEAGE = TableColumnLineage(
    {
        "text_key": [TableColumnDep("corpus", "key")],
        **{
            name: [TableColumnDep("corpus", "text")]
            for name in ("key", "input_ids", "n_tokens", "truncated", "size", "window")
        },
    }
)

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from finstill.config.workspace import Workspace
    from finstill.teacher.export import AnyTeacher, TeacherGraph
    from finstill.teacher.imported import ImportedTeacher
    from finstill.training.rows import TrainingRows


@asset(group_name="teacher", kinds={"huggingface"}, owners=OWNERS, code_version="1")
@explain_faults
def teacher_source(profile: ProfileResource) -> MaterializeResult:
    """The files that the profile's teacher is made from: a folder's, or those of the hub's model at one commit.

    An imported teacher is made from none: these are then the files of the tokenizer and of the first word vectors.
    Every later stage reads the files that were found here, so none mixes two revisions when the hub's `main` moves.
    """
    from finstill.files import digest
    from finstill.teacher.checkpoint import needed_files, record_source

    teacher = profile.profile().teacher
    checkpoint = record_source(teacher.starting_checkpoint, teacher.revision, profile.workspace.teacher_source)
    files = [checkpoint.folder / name for name in needed_files([each.name for each in checkpoint.folder.iterdir()])]
    return MaterializeResult(
        metadata={
            "source": checkpoint.source,
            "revision": checkpoint.revision or NO_REVISION,
            "files": table([{"file": each.name, "megabytes": each.stat().st_size / 1e6} for each in files]),
            "folder": str(checkpoint.folder),
        },
        data_version=DataVersion(
            digest(checkpoint.source, checkpoint.revision) if checkpoint.revision else digest(*files)
        ),
    )


@asset(
    deps=[corpus, teacher_source],
    group_name="teacher",
    kinds={"huggingface", "parquet"},
    owners=OWNERS,
    code_version="2",
    metadata={"dagster/column_schema": CORPUS_TOKENS_COLUMNS, "dagster/column_lineage": TOKENS_LINEAGE},
    check_specs=[
        AssetCheckSpec(
            "words_are_known",
            asset="tokens",
            description="At most 5% of the tokens stand for what the teacher's tokenizer does not know.",
        )
    ],
)
@explain_faults
def tokens(profile: ProfileResource) -> MaterializeResult:
    """Each text's token ids by the teacher's own tokenizer: student and teacher read the same input.

    A text that is longer than the teacher reads at once is cut there, or read in windows, as the profile says.
    """
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import NOTABLE_UNKNOWN_SHARE, tokenize_corpus
    from finstill.files import digest
    from finstill.teacher.checkpoint import recorded_source

    teacher, workspace = profile.profile().teacher, profile.workspace
    # Fine-tuning leaves the tokenizer as it is, so the checkpoint it starts from has the teacher's own.
    checkpoint = recorded_source(teacher.starting_checkpoint, teacher.revision, workspace.teacher_source)
    tokenizer = load_tokenizer(checkpoint.folder, teacher.max_length)
    report = tokenize_corpus(workspace.corpus, tokenizer, workspace.tokens, teacher.long)
    return MaterializeResult(
        metadata={
            "dagster/row_count": report.rows,
            "dagster/uri": workspace.tokens.as_uri(),
            "revision": checkpoint.revision or NO_REVISION,
            "maximum_length": teacher.max_length,
            "mean_length": report.tokens / report.rows,
            "texts_cut": report.truncated,
            "share_of_texts_cut": report.cut_share,
            "texts_read_in_windows": report.long,
            "windows": report.windows,
            "share_of_tokens_unknown": report.unknown_share,
            "unknown_examples": table([{"text": cell(text)} for text in report.examples]),
        },
        check_results=[
            AssetCheckResult(
                passed=report.unknown_share <= NOTABLE_UNKNOWN_SHARE,
                severity=AssetCheckSeverity.WARN,
                description=f"{report.unknown_share:.1%} of the tokens stand for what the tokenizer does not know"
                + (f", as in “{cell(report.examples[0])}”." if report.examples else "."),
                metadata={"share": report.unknown_share, "limit": NOTABLE_UNKNOWN_SHARE},
            )
        ],
        data_version=DataVersion(digest(workspace.tokens)),
    )


@asset(
    deps=[corpus, teacher_source, tokens],
    group_name="teacher",
    kinds={"huggingface", "pytorch"},
    owners=OWNERS,
    code_version="1",
)
@explain_faults
def teacher_checkpoint(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """The classifier to distil: from the hub or a folder, or fine-tuned here on the corpus's labelled train rows.

    Of an imported teacher, the encoder that students start from.
    """
    from finstill.corpus.provenance import require_tokens_of
    from finstill.evaluation.plots import training_curves
    from finstill.files import digest, one_at_a_time
    from finstill.teacher.checkpoint import (
        Checkpoint,
        class_names,
        load_classifier,
        recorded_source,
        weight_files,
    )
    from finstill.training.fine_tune import fine_tune
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    teacher = settings.teacher
    checkpoint = recorded_source(teacher.starting_checkpoint, teacher.revision, workspace.teacher_source)
    metadata: dict[str, Any] = {"source": checkpoint.source, "revision": checkpoint.revision or NO_REVISION}
    if settings.teacher.fine_tune is not None:
        require_tokens_of(workspace.tokens, checkpoint.folder, settings.teacher.max_length, "Materialize tokens again")
        rows = training_rows(workspace.corpus, workspace.tokens, settings.task)
        folder = workspace.teacher_checkpoint / "fine_tuned"
        # Two runs would remove each other's checkpoints. The second finds the teacher made.
        with one_at_a_time(folder):
            tuned = fine_tune(
                checkpoint,
                settings.teacher.fine_tune,
                rows["train"],
                rows["validation"],
                settings.task.labels,
                folder,
                seed=settings.seed,
                callbacks=[stop_when_cancelled(context)],
            )
        checkpoint = Checkpoint(folder, checkpoint.source, checkpoint.revision)
        metadata |= {
            "rows_learned_from": len(rows["train"].labelled()),
            "validation_macro_f1": tuned.macro_f1,
            "training": picture("Training of the teacher", training_curves(tuned.history, "teacher")),
        }
    classes: tuple[str, ...] = ()
    if teacher.imported is None:
        model = load_classifier(checkpoint.folder)
        classes = class_names(model)
        metadata |= {"classes": ", ".join(classes), "parameters": model.num_parameters()}
    checkpoint.write(workspace.teacher_checkpoint)
    return MaterializeResult(
        metadata={
            **metadata,
            "trained_on": ", ".join(settings.teacher.trained_on) or "not declared",
            "folder": str(checkpoint.folder),
        },
        data_version=DataVersion(digest(*weight_files(checkpoint.folder), *classes)),
    )


@asset(deps=[corpus, tokens, teacher_checkpoint], group_name="teacher", kinds={"onnx"}, owners=OWNERS, code_version="1")
@explain_faults
def teacher_onnx(profile: ProfileResource) -> MaterializeResult:
    """The teacher as an ONNX graph, with the fingerprint that every logit of it is kept under.

    A check proves it equal to the checkpoint on texts of the corpus before anything is labelled. An imported teacher
    has no graph, and the fingerprint that its rows have in the cache.
    """
    from finstill.corpus.tokenizer import read_tokenizer
    from finstill.inference.parity import PARITY_TEXTS
    from finstill.teacher.checkpoint import Checkpoint
    from finstill.teacher.classes import require_matching_classes
    from finstill.teacher.export import AUTO_TEXTS, export_teacher
    from finstill.training.rows import training_rows
    from finstill.training.samples import labelled_answers, rows_not_learned

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint)
    if settings.teacher.imported is not None:
        tokenizer = read_tokenizer(checkpoint.folder)
        imported = _imported_teacher(profile, settings.teacher.imported, workspace.teacher_onnx, tokenizer)
        return MaterializeResult(
            metadata={
                "imported": imported.source,
                "fingerprint": imported.fingerprint,
                "classes": ", ".join(imported.labels),
            },
            data_version=DataVersion(imported.fingerprint),
        )

    def rows() -> "dict[str, TrainingRows]":
        return training_rows(workspace.corpus, workspace.tokens, settings.task)

    automatic, budget = settings.teacher.precision == "auto", settings.teacher.token_budget
    teacher = export_teacher(
        checkpoint.folder,
        workspace.teacher_onnx,
        max_length=settings.teacher.max_length,
        source=checkpoint.source,
        precision=settings.teacher.precision,
        revision=checkpoint.revision,
        trained_on=settings.teacher.trained_on,
        provider=settings.teacher.execution_provider,
        sample=rows_not_learned(rows(), AUTO_TEXTS) if automatic else _some_rows(workspace, PARITY_TEXTS),
        token_budget=budget,
    )
    # Raised here, before the expensive stage, where the teacher's classes are not the task's.
    require_matching_classes(settings.task, teacher.labels, lambda: labelled_answers(rows(), teacher, budget))
    return MaterializeResult(
        metadata={
            "fingerprint": teacher.fingerprint,
            "precision": teacher.precision,
            **({"precision_chosen": teacher.chosen} if teacher.chosen else {}),
            "execution_provider": settings.teacher.execution_provider
            + (", with logits of its own" if teacher.provider else ""),
            "classes": ", ".join(teacher.labels),
            "megabytes": teacher.graph.stat().st_size / 1e6,
            "folder": str(teacher.folder),
        },
        data_version=DataVersion(teacher.fingerprint),
    )


def _imported_teacher(
    profile: ProfileResource, name: str, folder: "Path", tokenizer: "Tokenizer | None" = None
) -> "ImportedTeacher":
    """Write down which imported teacher the profile names, its classes matched to the task's labels."""
    from finstill.cache.imported import find_imported
    from finstill.config.task import class_groups
    from finstill.teacher.imported import describe_imported

    settings, cache = profile.profile(), find_imported(profile.cache, name)
    class_groups(settings.task, cache.labels)
    length, trained_on = settings.teacher.max_length, settings.teacher.trained_on
    return describe_imported(cache, name, folder, max_length=length, trained_on=trained_on, tokenizer=tokenizer)


def _some_rows(workspace: "Workspace", count: int) -> list[list[int]]:
    """Return the token ids of some texts of the corpus; keys are hashes, so the first ones are a random sample."""
    import pyarrow.parquet as pq

    return pq.read_table(workspace.tokens, columns=["input_ids"])[:count]["input_ids"].to_pylist()


@asset(deps=[corpus], group_name="teacher", kinds={"huggingface", "onnx"}, owners=OWNERS, code_version="1")
@explain_faults
def teacher_ensemble(profile: ProfileResource) -> MaterializeResult:
    """The further teachers of an ensemble as ONNX graphs, each proved equal to its checkpoint on texts of the corpus.

    Of an imported one there is the fingerprint alone. Where the profile names none, there is nothing to make.
    """
    import pyarrow.parquet as pq

    from finstill.config.task import class_groups
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.files import digest, remove_folder
    from finstill.inference.parity import PARITY_TEXTS
    from finstill.teacher.checkpoint import load_classifier, resolve_checkpoint
    from finstill.teacher.export import export_teacher, prove_teacher

    settings, workspace = profile.profile(), profile.workspace
    texts = pq.read_table(workspace.corpus, columns=["text"])[:PARITY_TEXTS]["text"].to_pylist()
    teachers: list[AnyTeacher] = []
    for number, member in enumerate(settings.teacher.ensemble, start=1):
        folder = workspace.teacher_ensemble / str(number)
        if member.imported is not None:
            teachers.append(_imported_teacher(profile, member.imported, folder))
            continue
        checkpoint = resolve_checkpoint(member.name, member.revision)
        tokenizer = load_tokenizer(checkpoint.folder, settings.teacher.max_length)
        rows = [each.ids for each in tokenizer.encode_batch(texts)]
        teacher = export_teacher(
            checkpoint.folder,
            folder,
            max_length=settings.teacher.max_length,
            source=checkpoint.source,
            revision=checkpoint.revision,
            trained_on=settings.teacher.trained_on,
            provider=settings.teacher.execution_provider,
            sample=rows,
            token_budget=settings.teacher.token_budget,
        )
        class_groups(settings.task, teacher.labels)
        model, provider = load_classifier(checkpoint.folder), settings.teacher.execution_provider
        parity = prove_teacher(teacher, model, rows, settings.teacher.token_budget, provider)
        parity.require(teacher.source, teacher.folder)
        teachers.append(teacher)
    kept = {teacher.folder for teacher in teachers}
    for folder in workspace.teacher_ensemble.glob("[1-9]*"):
        if folder not in kept:
            remove_folder(folder)
    return MaterializeResult(
        metadata={
            "teachers": table(
                [
                    {"source": each.source, "fingerprint": each.fingerprint, "classes": ", ".join(each.labels)}
                    for each in teachers
                ]
            )
        },
        data_version=DataVersion(digest(*(teacher.fingerprint for teacher in teachers))),
    )


@asset_check(asset=teacher_onnx, blocking=True)
@explain_faults
def graph_equals_checkpoint(profile: ProfileResource) -> AssetCheckResult:
    """On texts of the corpus, the graph's logits lie within 1e-4 of the checkpoint's and name the same class.

    The graph runs on the provider that labels. Where the logits of that one are its own, and so is the fingerprint, the
    CPU's must lie within the limit and both must name the same class.
    """
    from finstill.inference.parity import LARGEST_DIFFERENCE, PARITY_TEXTS
    from finstill.teacher.checkpoint import Checkpoint, load_classifier
    from finstill.teacher.export import TeacherGraph, prove_teacher

    workspace, settings = profile.workspace, profile.profile().teacher
    if settings.imported is not None:
        return AssetCheckResult(passed=True, description=NO_GRAPH)
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint)
    teacher, model = TeacherGraph.read(workspace.teacher_onnx), load_classifier(checkpoint.folder)
    rows = _some_rows(workspace, PARITY_TEXTS)
    parity = prove_teacher(teacher, model, rows, settings.token_budget, settings.execution_provider)
    return AssetCheckResult(
        passed=parity.holds,
        description=f"The largest difference of a logit is {parity.largest_difference:.2g} over {parity.rows} texts.",
        metadata={
            "largest_difference": parity.largest_difference,
            "limit": LARGEST_DIFFERENCE,
            "argmax_agreement": parity.argmax_agreement,
            "fingerprint": teacher.fingerprint,
        },
    )


@asset_check(asset=teacher_onnx, blocking=True)
@explain_faults
def labels_as_float32(profile: ProfileResource) -> AssetCheckResult:
    """A teacher of lower precision names the float32 one's class on 99% of some 4,000 test texts, at a mean KL under
    0.01, in any batch. One that `auto` chose was measured when it was made, on texts that no fine-tuning learns from.
    """
    from finstill.teacher.export import TeacherGraph
    from finstill.teacher.fidelity import (
        FIDELITY_TEXTS,
        LARGEST_BATCH_DEPENDENCE,
        LARGEST_KL,
        LEAST_AGREEMENT,
        measure_fidelity,
    )
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    if settings.teacher.imported is not None:
        return AssetCheckResult(passed=True, description=NO_GRAPH)
    teacher = TeacherGraph.read(workspace.teacher_onnx)
    graph = {"fingerprint": teacher.fingerprint}
    if teacher.chosen is not None:
        description = f"{teacher.precision} was chosen: {teacher.chosen}."
        return AssetCheckResult(passed=True, description=description, metadata=graph)
    if teacher.precision == "float32":
        description = "The float32 graph labels: there is nothing to compare."
        return AssetCheckResult(passed=True, description=description, metadata=graph)
    test = training_rows(workspace.corpus, workspace.tokens, settings.task)["test"]
    fidelity = measure_fidelity(
        teacher.graph,
        teacher.float32_graph,
        test.input_ids.spaced(FIDELITY_TEXTS),
        settings.teacher.token_budget,
        settings.teacher.execution_provider,
    )
    return AssetCheckResult(
        passed=fidelity.holds,
        description=f"{fidelity}. Where this fails, set teacher.precision to float32.",
        metadata={
            "agreement": fidelity.agreement,
            "least_agreement": LEAST_AGREEMENT,
            "kl_to_float32_nats": fidelity.kl_to_float32,
            "largest_kl_nats": LARGEST_KL,
            "batch_dependence": fidelity.batch_dependence,
            "largest_batch_dependence": LARGEST_BATCH_DEPENDENCE,
            **graph,
        },
    )


def require_proved(instance: DagsterInstance, teacher: "TeacherGraph") -> None:
    """Refuse the graph of a teacher that its checks have not proved: what it says would stay in the cache.

    The checks stop the run that they are part of, and no later one that begins with the labelling.

    Raises:
        InputError: one of them found it wrong, or was asked about another graph when it last answered.
    """
    from finstill.errors import InputError

    for key in graph_equals_checkpoint.check_keys | labels_as_float32.check_keys:
        records = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        answer = records[0].evaluation if records else None
        if answer is None or (said := answer.metadata.get("fingerprint")) is None or said.value != teacher.fingerprint:
            problem, remedy = "has not looked at its graph yet", "Materialize teacher_onnx with its checks"
        elif not answer.passed:
            problem = f"refused its graph: {answer.description}"
            remedy = "Mend that, and materialize teacher_onnx with its checks"
        else:
            continue
        raise InputError(f"the check {key.name} {problem}", where="teacher_onnx", remedy=remedy)
