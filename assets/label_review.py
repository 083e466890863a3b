"""Labels that look wrong, as a table that people correct and drop back in."""

from typing import Any

from dagster import MaterializeResult, MetadataValue, asset

from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, cell, table
from assets.resources import ProfileResource
from assets.scores import scores
from assets.teacher import tokens
from assets.teacher_logits import teacher_logits
from finstill.corpus.splits import SPLITS

ROWS_SHOWN = 20

HOW_TO_CORRECT = (
    "Write the right label into the column `label`, the given one where it is right, and leave the others empty. Save "
    "the file under a name that begins with `label_review` where dropped files arrive, or under any name in "
    "`{folder}` beside the profile. A corrected test label changes what students are measured on: all are measured "
    "again on the corrected texts."
)


@asset(
    deps=[corpus, tokens, teacher_logits, scores],
    group_name="service",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version="1",
)
@explain_faults
def label_review(profile: ProfileResource) -> MaterializeResult:
    """Labels that look wrong, the most doubtful first: the teacher and a cross-fitted classifier contradict them.

    Fill in the column `label` of the CSV and drop it back in, and the next night takes it. What a person has decided
    is not asked again.
    """
    from collections import Counter

    from finstill.corpus.corrections import read_corrections
    from finstill.evaluation.label_review import opinions_of, review, write_review
    from finstill.serving.package import Package

    settings, workspace = profile.profile(), profile.workspace
    fine_tuned_on = () if settings.teacher.fine_tune is None else ("train",)
    texts, opinions = opinions_of(
        workspace.corpus,
        workspace.tokens,
        workspace.teacher_logits,
        workspace.scores / Package.read(workspace.champion / "current").digest,
        settings.task,
        teacher_learned_from=SPLITS if settings.is_contaminated(settings.corpus) else fine_tuned_on,
    )
    decided = {key.hex() for key in read_corrections(settings.corrections, settings.task.labels)}
    rows = [row for row in review(texts, opinions, settings.task.labels) if row["key"] not in decided]
    write_review(rows, workspace.label_review)
    splits = Counter(row["split"] for row in rows)
    return MaterializeResult(
        metadata={
            "labels_in_doubt": len(rows),
            "labels_in_doubt_by_split": table([{"split": split, "labels": splits[split]} for split in SPLITS]),
            "labels_decided": len(decided),
            "most_doubtful": table([_shown(row) for row in rows[:ROWS_SHOWN]]),
            "file": MetadataValue.path(str(workspace.label_review)),
            "how_to_correct": MetadataValue.md(HOW_TO_CORRECT.format(folder=settings.corrections.name)),
        }
    )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the review as it is shown on the asset's page."""
    shown = {"given": row["given_label"], "suggested": row["suggested_label"], "split": row["split"]}
    shown |= {name: row[name] for name in row if name.endswith(("_given", "_suggested"))}
    return shown | {"teacher is": row["teacher_sample"], "text": cell(row["text"])}
