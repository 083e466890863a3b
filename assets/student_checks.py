"""Checks of a student: what keeps it out of service, and what a person should look at."""

from typing import TYPE_CHECKING

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, asset_check

from assets.comparison import read_test
from assets.resources import ProfileResource
from assets.students import evaluation

if TYPE_CHECKING:
    from finstill.evaluation.evaluate import StudentEvaluation

LEAST_AGREEMENT = 0.8
LARGEST_EXCESS_CALIBRATION_ERROR = 0.05


@asset_check(asset=evaluation)
def within_budgets(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """Logits are finite, and size, latency, fidelity and calibration keep to the profile's budgets.

    A student that fails this is not promoted. It stops nothing else.
    """
    from finstill.evaluation.budgets import breaches

    measured, budgets = _evaluation(context, profile), profile.profile().budgets
    asked = {name: value for name, value in budgets.model_dump().items() if value is not None}
    found = breaches(measured, budgets)
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.ERROR,
        description=f"It cannot go into service: {'; '.join(found)}."
        if found
        else f"It keeps to {asked or 'no budget: none is set'}.",
        metadata={f"budget_{name}": value for name, value in asked.items()},
    )


@asset_check(asset=evaluation)
def faithful_to_the_teacher(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """A distilled student gives at least 80% of the test texts the teacher's class."""
    measured = _evaluation(context, profile)
    heard = profile.recipes()[measured.student.name].alpha > 0
    return AssetCheckResult(
        passed=not heard or measured.student.agreement >= LEAST_AGREEMENT,
        severity=AssetCheckSeverity.WARN,
        description=f"{measured.student.agreement:.1%} of the test texts get the teacher's class."
        + ("" if heard else " It learned from labels alone, and nothing is asked of it."),
        metadata={"agreement": measured.student.agreement, "least_agreement": LEAST_AGREEMENT},
    )


@asset_check(asset=evaluation)
def as_calibrated_as_the_teacher(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """The expected calibration error exceeds the teacher's by at most 0.05."""
    measured = _evaluation(context, profile)
    student, teacher = measured.student.quality, measured.teacher.quality
    if student is None or teacher is None:
        return AssetCheckResult(passed=True, description="No test text is labelled: calibration cannot be measured.")
    own, teachers = student["calibration_error"], teacher["calibration_error"]
    return AssetCheckResult(
        passed=own - teachers <= LARGEST_EXCESS_CALIBRATION_ERROR,
        severity=AssetCheckSeverity.WARN,
        description=f"The calibration error is {own:.3f}, the teacher's is {teachers:.3f}.",
        metadata={"calibration_error": own, "teachers_calibration_error": teachers},
    )


@asset_check(asset=evaluation)
def no_worse_than_the_champion(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """The 95% interval of the difference from the champion, on today's test texts, does not lie below 0."""
    from finstill.champion import difference_from_champion
    from finstill.evaluation.metrics import describe_difference
    from finstill.package import Package

    measured = _evaluation(context, profile)
    folder = profile.workspace.champion / "current"
    if not folder.is_dir():
        return AssetCheckResult(passed=True, description="There is no champion yet.")
    champion = Package.read(folder)
    if champion.labels != tuple(profile.profile().task.labels):
        return AssetCheckResult(passed=True, description=f"The champion answers another task, {champion.task}.")
    difference, low, high = difference_from_champion(measured.logits, champion, *read_test(profile))
    return AssetCheckResult(
        passed=high >= 0,
        severity=AssetCheckSeverity.WARN,
        description=f"Against {champion.name}: {describe_difference(difference, low, high)}.",
        metadata={"difference": difference, "low": low, "high": high},
    )


def _evaluation(context: AssetCheckExecutionContext, profile: ProfileResource) -> "StudentEvaluation":
    from finstill.evaluation.evaluate import StudentEvaluation

    return StudentEvaluation.read(profile.workspace.evaluation(context.partition_key))
