"""The teacher: its checkpoint, its graph, and the checks that prove the graph."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckResult, DataVersion, MaterializeResult, asset, asset_check

from assets.corpus import corpus, tokens
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.retries import retries_where_it_can_help

PARITY_TEXTS = 64
MAPPING_TEXTS = 256
"""Labelled texts on which the possible mappings of a teacher's classes are compared."""

if TYPE_CHECKING:
    import numpy as np

    from finstill.teacher.export import TeacherGraph


@asset(deps=[corpus, tokens], group_name="teacher", kinds={"huggingface", "pytorch"}, owners=OWNERS, code_version="1")
@retries_where_it_can_help
def teacher_checkpoint(profile: ProfileResource) -> MaterializeResult:
    """The classifier to distil: from the hub or a folder, or fine-tuned here on the corpus's labelled train rows."""
    from finstill.corpus.provenance import require_tokens_of
    from finstill.evaluation.plots import training_curves
    from finstill.files import digest
    from finstill.teacher.checkpoint import (
        Checkpoint,
        class_names,
        load_classifier,
        resolve_checkpoint,
        weight_files,
    )
    from finstill.training.fine_tune import fine_tune
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = resolve_checkpoint(settings.teacher.checkpoint, settings.teacher.revision)
    metadata: dict[str, Any] = {"source": checkpoint.source, "revision": checkpoint.revision or "a folder has none"}
    if settings.teacher.fine_tune is not None:
        require_tokens_of(
            workspace.tokens, checkpoint.folder, settings.teacher.max_length, "Materialize tokens again"
        )
        rows = training_rows(workspace.corpus, workspace.tokens, settings.task)
        folder = workspace.teacher_checkpoint / "fine_tuned"
        tuned = fine_tune(
            checkpoint,
            settings.teacher.fine_tune,
            rows["train"],
            rows["validation"],
            settings.task.labels,
            folder,
            seed=settings.seed,
        )
        checkpoint = Checkpoint(folder, checkpoint.source, checkpoint.revision)
        metadata |= {
            "rows_learned_from": len(rows["train"].labelled()),
            "validation_macro_f1": tuned.macro_f1,
            "training": picture("Training of the teacher", training_curves(tuned.history, "teacher")),
        }
    model = load_classifier(checkpoint.folder)
    checkpoint.write(workspace.teacher_checkpoint)
    return MaterializeResult(
        metadata={
            **metadata,
            "classes": ", ".join(class_names(model)),
            "parameters": model.num_parameters(),
            "trained_on": ", ".join(settings.teacher.trained_on) or "not declared",
            "folder": str(checkpoint.folder),
        },
        data_version=DataVersion(digest(*weight_files(checkpoint.folder), *class_names(model))),
    )


@asset(deps=[corpus, tokens, teacher_checkpoint], group_name="teacher", kinds={"onnx"}, owners=OWNERS, code_version="1")
def teacher_onnx(profile: ProfileResource) -> MaterializeResult:
    """The teacher as an ONNX graph, with the fingerprint that every logit of it is kept under.

    A check proves it equal to the checkpoint on texts of the corpus before anything is labelled.
    """
    from finstill.teacher.checkpoint import Checkpoint
    from finstill.teacher.classes import require_matching_classes
    from finstill.teacher.export import export_teacher

    settings, workspace = profile.profile(), profile.workspace
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint)
    teacher = export_teacher(
        checkpoint.folder,
        workspace.teacher_onnx,
        max_length=settings.teacher.max_length,
        source=checkpoint.source,
        precision=settings.teacher.precision,
        revision=checkpoint.revision,
        trained_on=settings.teacher.trained_on,
    )
    # Raised here, before the expensive stage, where the teacher's classes are not the task's.
    require_matching_classes(settings.task, teacher.labels, lambda: _labelled_answers(profile, teacher))
    return MaterializeResult(
        metadata={
            "fingerprint": teacher.fingerprint,
            "precision": teacher.precision,
            "classes": ", ".join(teacher.labels),
            "megabytes": teacher.graph.stat().st_size / 1e6,
            "folder": str(teacher.folder),
        },
        data_version=DataVersion(teacher.fingerprint),
    )


def _labelled_answers(profile: ProfileResource, teacher: TeacherGraph) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of some labelled texts, validation first, and what the teacher's float32 graph says of them."""
    import numpy as np

    from finstill.inference.session import OnnxClassifier
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task)
    labelled = [rows[split].labelled() for split in ("validation", "train")]
    ids = [row for each in labelled for row in each.input_ids][:MAPPING_TEXTS]
    labels = np.concatenate([each.labels for each in labelled])[:MAPPING_TEXTS]
    if not ids:
        return labels, np.empty((0, len(teacher.labels)), np.float32)
    return labels, OnnxClassifier(teacher.float32_graph).logits(ids, settings.teacher.token_budget)


@asset(deps=[corpus], group_name="teacher", kinds={"huggingface", "onnx"}, owners=OWNERS, code_version="1")
@retries_where_it_can_help
def teacher_ensemble(profile: ProfileResource) -> MaterializeResult:
    """The further teachers of an ensemble as ONNX graphs, each proved equal to its checkpoint on texts of the corpus.

    Where the profile names none, there is nothing to make.
    """
    import pyarrow.parquet as pq

    from finstill.config.task import class_groups
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.files import digest
    from finstill.inference.parity import graph_parity
    from finstill.inference.session import OnnxClassifier
    from finstill.teacher.checkpoint import load_classifier, resolve_checkpoint
    from finstill.teacher.export import export_teacher

    settings, workspace = profile.profile(), profile.workspace
    texts = pq.read_table(workspace.corpus, columns=["text"])[:PARITY_TEXTS]["text"].to_pylist()
    teachers = []
    for number, member in enumerate(settings.teacher.ensemble, start=1):
        checkpoint = resolve_checkpoint(member.checkpoint, member.revision)
        teacher = export_teacher(
            checkpoint.folder,
            workspace.teacher_ensemble / str(number),
            max_length=settings.teacher.max_length,
            source=checkpoint.source,
            revision=checkpoint.revision,
            trained_on=settings.teacher.trained_on,
        )
        class_groups(settings.task, teacher.labels)
        rows = [each.ids for each in load_tokenizer(teacher.folder, teacher.max_length).encode_batch(texts)]
        exported = OnnxClassifier(teacher.float32_graph).logits(rows, settings.teacher.token_budget)
        graph_parity(exported, load_classifier(checkpoint.folder), rows).require(teacher.source, teacher.folder)
        teachers.append(teacher)
    kept = {teacher.folder for teacher in teachers}
    for folder in workspace.teacher_ensemble.glob("*"):
        if folder not in kept:
            shutil.rmtree(folder)
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
def graph_equals_checkpoint(profile: ProfileResource) -> AssetCheckResult:
    """On texts of the corpus, the graph's logits lie within 1e-4 of the checkpoint's and name the same class."""
    import pyarrow.parquet as pq

    from finstill.inference.parity import LARGEST_DIFFERENCE, graph_parity
    from finstill.inference.session import OnnxClassifier
    from finstill.teacher.checkpoint import Checkpoint, load_classifier
    from finstill.teacher.export import TeacherGraph

    workspace, settings = profile.workspace, profile.profile().teacher
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint)
    rows = pq.read_table(workspace.tokens, columns=["input_ids"])[:PARITY_TEXTS]["input_ids"].to_pylist()
    classifier = OnnxClassifier(TeacherGraph.read(workspace.teacher_onnx).float32_graph)
    parity = graph_parity(classifier.logits(rows, settings.token_budget), load_classifier(checkpoint.folder), rows)
    return AssetCheckResult(
        passed=parity.holds,
        description=f"The largest difference of a logit is {parity.largest_difference:.2g} over {parity.rows} texts.",
        metadata={
            "largest_difference": parity.largest_difference,
            "limit": LARGEST_DIFFERENCE,
            "argmax_agreement": parity.argmax_agreement,
        },
    )


@asset_check(asset=teacher_onnx, blocking=True)
def int8_labels_as_float32(profile: ProfileResource) -> AssetCheckResult:
    """An int8 teacher names the float32 one's class on 99% of the test texts, at a mean KL under 0.01, in any batch."""
    from finstill.teacher.export import TeacherGraph
    from finstill.teacher.fidelity import LARGEST_BATCH_DEPENDENCE, LARGEST_KL, LEAST_AGREEMENT, int8_fidelity
    from finstill.training.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    teacher = TeacherGraph.read(workspace.teacher_onnx)
    if teacher.precision == "float32":
        return AssetCheckResult(passed=True, description="The float32 graph labels: there is nothing to compare.")
    test = training_rows(workspace.corpus, workspace.tokens, settings.task)["test"]
    fidelity = int8_fidelity(teacher.graph, teacher.float32_graph, test.input_ids, settings.teacher.token_budget)
    return AssetCheckResult(
        passed=fidelity.holds,
        description=f"{fidelity.agreement:.2%} of {fidelity.rows:,} texts get the same class, the mean KL is "
        f"{fidelity.kl_to_float32:.2g}, and batch mates move a logit by {fidelity.batch_dependence:.2g}. "
        "Where this fails, set teacher.precision to float32.",
        metadata={
            "agreement": fidelity.agreement,
            "least_agreement": LEAST_AGREEMENT,
            "kl_to_float32_nats": fidelity.kl_to_float32,
            "largest_kl_nats": LARGEST_KL,
            "batch_dependence": fidelity.batch_dependence,
            "largest_batch_dependence": LARGEST_BATCH_DEPENDENCE,
        },
    )
