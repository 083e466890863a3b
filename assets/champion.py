"""The student in service."""

from dagster import AssetExecutionContext, Config, DataVersion, MaterializeResult, asset
from pydantic import Field

from assets.comparison import comparison, current_students
from assets.evaluation import texts_of
from assets.faults import explain_faults
from assets.metadata import OWNERS
from assets.resources import ProfileResource
from assets.students import student_package


class ChampionConfig(Config):
    """What to do with the student in service."""

    roll_back: bool = Field(
        default=False,
        description="Put the champion before this one back into service. This one is withdrawn: it is not promoted "
        "again until its recipe makes another student.",
    )


@asset(deps=[comparison, student_package], group_name="evaluation", kinds={"onnx"}, owners=OWNERS, code_version="1")
@explain_faults
def champion(context: AssetExecutionContext, config: ChampionConfig, profile: ProfileResource) -> MaterializeResult:
    """The student in service. It is replaced only by one that is shown to be better.

    The one it replaces is kept: materialize this with `roll_back` to have it back.
    """
    from finstill.files import one_at_a_time
    from finstill.packaging.champion import choose_champion, roll_back
    from finstill.serving.package import Package

    settings, workspace = profile.profile(), profile.workspace
    # A person may decide while a night does.
    with one_at_a_time(workspace.champion):
        if config.roll_back:
            decision = roll_back(workspace.champion)
        else:
            students, _, test = current_students(profile)
            packages = {name: Package.read(workspace.package(name)) for name in students}
            decision = choose_champion(students, packages, test, texts_of(test), settings.budgets, workspace.champion)
    context.log.info(decision.reason)
    return MaterializeResult(
        metadata={
            "champion": decision.champion,
            "promoted": decision.promoted,
            "reason": decision.reason,
            "folder": str(workspace.champion / "current"),
        },
        data_version=DataVersion(decision.digest),
    )
