"""Checks that stop a run where what follows would be wrong, or warn where a person should look."""

from __future__ import annotations

from dagster import AssetCheckResult, AssetCheckSeverity, asset_check

from assets.comparison import comparison
from assets.metadata import cell, table
from assets.resources import ProfileResource
from assets.teacher import PARITY_TEXTS, augmented_corpus, teacher_logits, teacher_onnx

LEAKS_SHOWN = 10


@asset_check(asset=teacher_onnx, blocking=True)
def graph_equals_checkpoint(profile: ProfileResource) -> AssetCheckResult:
    """On texts of the corpus, the graph's logits lie within 1e-4 of the checkpoint's and name the same class."""
    import pyarrow.parquet as pq

    from finstill.onnx_classifier import LARGEST_DIFFERENCE, OnnxClassifier, graph_parity
    from finstill.teacher.checkpoint import Checkpoint, load_classifier
    from finstill.teacher.export import TeacherGraph

    workspace, settings = profile.workspace, profile.profile().teacher
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint / "checkpoint.json")
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
    from finstill.distil.rows import training_rows
    from finstill.teacher.export import TeacherGraph
    from finstill.teacher.fidelity import LARGEST_BATCH_DEPENDENCE, LARGEST_DIVERGENCE, LEAST_AGREEMENT, int8_fidelity

    settings, workspace = profile.profile(), profile.workspace
    teacher = TeacherGraph.read(workspace.teacher_onnx)
    if teacher.precision == "float32":
        return AssetCheckResult(passed=True, description="The float32 graph labels: there is nothing to compare.")
    test = training_rows(workspace.corpus, workspace.tokens, settings.task)["test"]
    fidelity = int8_fidelity(teacher.graph, teacher.float32_graph, test.input_ids, settings.teacher.token_budget)
    return AssetCheckResult(
        passed=fidelity.holds,
        description=f"{fidelity.agreement:.2%} of {fidelity.rows:,} texts get the same class, the mean KL is "
        f"{fidelity.divergence:.2g}, and batch mates move a logit by {fidelity.batch_dependence:.2g}. "
        "Where this fails, set teacher.precision to float32.",
        metadata={
            "agreement": fidelity.agreement,
            "least_agreement": LEAST_AGREEMENT,
            "divergence_nats": fidelity.divergence,
            "largest_divergence_nats": LARGEST_DIVERGENCE,
            "batch_dependence": fidelity.batch_dependence,
            "largest_batch_dependence": LARGEST_BATCH_DEPENDENCE,
        },
    )


@asset_check(asset=augmented_corpus, blocking=True)
def no_test_text_is_learned_from(profile: ProfileResource) -> AssetCheckResult:
    """No train or augmented text is nearly a validation or test text; labelled train texts that are near are named."""
    from finstill.corpus.leakage import find_leaks

    leaks = find_leaks(profile.workspace.corpus, profile.workspace.augmented)
    forbidden = [leak for leak in leaks if leak.forbidden]
    shown = sorted(leaks, key=lambda leak: (not leak.forbidden, -leak.similarity))[:LEAKS_SHOWN]
    examples = [{**vars(leak), "text": cell(leak.text), "other": cell(leak.other)} for leak in shown]
    return AssetCheckResult(
        passed=not leaks,
        severity=AssetCheckSeverity.ERROR if forbidden else AssetCheckSeverity.WARN,
        description=f"{len(forbidden):,} texts to learn from are validation or test texts in all but name, and "
        f"{len(leaks) - len(forbidden):,} labelled train texts are near one."
        + (f" The first: “{cell(shown[0].text)}”, as in {shown[0].split}: “{cell(shown[0].other)}”." if shown else ""),
        metadata={"examples": table(examples)},
    )


@asset_check(asset=teacher_logits, blocking=True)
def every_text_has_logits(profile: ProfileResource) -> AssetCheckResult:
    """Each text of the corpus and of the augmented one, or each of its windows, has one row of finite logits."""
    import numpy as np
    import pyarrow.parquet as pq

    workspace = profile.workspace
    texts, covered, finite = 0, True, True
    pairs = ((workspace.tokens, workspace.teacher_logits), (workspace.augmented, workspace.augmented_logits))
    for of_tokens, of_logits in pairs:
        logits = pq.read_table(of_logits)
        keys = pq.read_table(of_tokens, columns=["key"])["key"]
        texts += len(keys)
        covered &= logits["key"].equals(keys)
        finite &= bool(np.isfinite(logits["logits"].combine_chunks().flatten().to_numpy()).all())
    corpus_keys = pq.read_table(workspace.corpus, columns=["key"])["key"]
    covered &= pq.read_table(workspace.tokens, columns=["text_key"])["text_key"].unique().equals(corpus_keys.unique())
    return AssetCheckResult(
        passed=covered and finite,
        description=f"{texts:,} texts; rows of logits in the same order: {covered}; all finite: {finite}.",
    )


@asset_check(asset=teacher_logits, blocking=True)
def teacher_beats_the_commonest_class(profile: ProfileResource) -> AssetCheckResult:
    """On the labelled validation texts the teacher is better than answering every text with the commonest class."""
    from finstill.distil.rows import training_rows
    from finstill.teacher.classes import judge_teacher

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    labelled = rows["validation"].labelled().whole_texts()
    if not len(labelled):
        return AssetCheckResult(
            passed=True, description="No validation text is labelled: there is nothing to judge by."
        )
    assert labelled.teacher_logits is not None
    judgement = judge_teacher(labelled.labels, labelled.teacher_logits, settings.task.labels)
    return AssetCheckResult(
        passed=judgement.verdict == "better",
        severity=AssetCheckSeverity.ERROR if judgement.verdict == "worse" else AssetCheckSeverity.WARN,
        description=str(judgement),
        metadata={
            "texts": judgement.rows,
            "accuracy": judgement.accuracy,
            "commonest_accuracy": judgement.commonest_accuracy,
            "macro_f1": judgement.macro_f1,
            "commonest_macro_f1": judgement.commonest_macro_f1,
        },
    )


@asset_check(asset=comparison)
def distilling_pays(profile: ProfileResource) -> AssetCheckResult:
    """Each distilled student beats its directly trained twin, the 95% interval of the difference above 0."""
    from assets.comparison import current_students
    from finstill.evaluation.compare import compare

    verdicts = compare(current_students(profile), profile.recipes()).verdicts
    return AssetCheckResult(
        passed=all(verdict.difference.low > 0 for verdict in verdicts),
        severity=AssetCheckSeverity.WARN,
        description=" ".join(verdict.sentence for verdict in verdicts) or "No recipe has a twin.",
        metadata={
            "verdicts": table(
                [{"student": each.student, "twin": each.twin, **vars(each.difference)} for each in verdicts]
            )
        },
    )
