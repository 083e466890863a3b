"""How the student in service holds, night by night, and the check of it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dagster import AssetCheckResult, AssetCheckSeverity, MaterializeResult, asset, asset_check

from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.scores import scores
from assets.teacher import tokens
from assets.teacher_logits import teacher_logits

if TYPE_CHECKING:
    from finstill.serving.package import Package


@asset(
    deps=[corpus, tokens, teacher_logits, scores],
    group_name="service",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version="1",
)
@explain_faults
def in_service(profile: ProfileResource) -> MaterializeResult:
    """The champion beside its teacher on the texts that came since the last night: agreement, divergence, alert rate,
    and what the texts are like. Only texts that no student learns from count, and the teacher is not run."""
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.evaluation.in_service import record_night, table_of
    from finstill.evaluation.plots import nights_in_service
    from finstill.files import one_at_a_time
    from finstill.teacher.export import ensemble_fingerprint, read_teachers, require_answers_of

    workspace, champion = profile.workspace, _champion(profile)
    teachers = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    require_answers_of(teachers, workspace.teacher_logits)
    with one_at_a_time(workspace.in_service):
        nights = record_night(
            workspace.corpus,
            workspace.tokens,
            workspace.teacher_logits,
            workspace.scores / champion.digest,
            profile.profile().task,
            champion,
            load_tokenizer(teachers[0].folder, teachers[0].max_length),
            workspace.in_service,
            teacher=ensemble_fingerprint(teachers),
            recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    return MaterializeResult(
        metadata={
            "nights": table(table_of(nights)),
            **({"over_time": picture("In service", nights_in_service(nights))} if nights else {}),
        }
    )


@asset_check(asset=in_service)
@explain_faults
def holds_what_it_was_promoted_for(profile: ProfileResource) -> AssetCheckResult:
    """On the latest new texts, agreement, divergence and alert rate are what they were at promotion.

    Beside another teacher than at promotion the alert rate alone is compared.
    """
    from finstill.evaluation.in_service import LEAST_TEXTS, left_the_promotion, read_nights

    nights, champion = read_nights(profile.workspace.in_service), _champion(profile)
    if not nights or nights[-1].digest != champion.digest:
        return AssetCheckResult(
            passed=True, description=f"Fewer than {LEAST_TEXTS} texts have come since {champion.name} was promoted."
        )
    night = nights[-1]
    found = left_the_promotion(night, champion)
    said = found or [f"Measured on {night.texts:,} texts, it holds."]
    if night.is_of_another_teacher(champion):
        rate = [] if champion.decision is None else [f"Measured on {night.texts:,} texts, the alert rate holds."]
        another = "The teacher is another than at the promotion: agreement and divergence do not compare."
        said = [another, *(found or rate)]
    return AssetCheckResult(passed=not found, severity=AssetCheckSeverity.WARN, description=" ".join(said))


def _champion(profile: ProfileResource) -> "Package":
    from finstill.serving.package import Package

    return Package.read(profile.workspace.champion / "current")
