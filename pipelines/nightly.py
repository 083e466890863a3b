"""One night is one run: it takes what was dropped, labels what is new, retrains what that changes, and decides.

Its stages run the jobs `label`, `distil` and `decide`, the same that a person starts by hand, each as a run of its own
inside the night's process. Those runs carry the tag `finstill/night`, and the last stage tells what all of them did.
"""

from pathlib import Path

from dagster import Config, Failure, In, MetadataValue, Nothing, OpExecutionContext, Out, job, op
from pydantic import Field

import finstill
from assets.resources import ProfileResource
from assets.retries import retries_where_it_can_help
from assets.students import students
from pipelines.deployment import drop
from pipelines.execution import RunFailedError, execute
from pipelines.summary import NIGHT_TAG, WHY_TAG, close_orphans, summarise_night


class Arrivals(Config):
    """What the night takes in before it looks at the corpus."""

    files: list[str] = Field(
        default=[],
        description="Files of the drop (FINSTILL_DROP) to copy into the corpus's folder, as the sensor lists them. "
        "Leave it empty for a night on the corpus as it is.",
    )


class Night(Config):
    """What the night retrains."""

    students: list[str] = Field(
        default=[],
        description="Recipes to retrain whether or not their inputs changed. "
        "The others are retrained where a recipe, a text, a logit or the code changed.",
    )


INPUTS_TAG = "finstill/inputs"

AFTER = {"after": In(Nothing)}


def inputs_state(profile: ProfileResource) -> str:
    """Return a digest of all that a night depends on, without reading the corpus."""
    from finstill.corpus.state import source_state
    from finstill.files import digest

    settings = profile.profile()
    sources = [source for source in (settings.corpus, settings.out_of_domain) if source is not None]
    return digest(finstill.__version__, Path(profile.path), settings.recipes, *map(source_state, sources))


@op(out=Out(Nothing))
@retries_where_it_can_help
def take_dropped_files(context: OpExecutionContext, config: Arrivals, profile: ProfileResource) -> None:
    """Copies the files that the sensor saw arrive into the corpus's folder."""
    from finstill.corpus.arrivals import take

    close_orphans(context.instance, _night(context))
    folder = drop()
    if config.files and folder:
        copies = take(folder, config.files, profile.profile().corpus)
        context.log.info(f"taken into the corpus: {', '.join(copy.name for copy in copies)}")


@op(ins=AFTER, out=Out(Nothing))
def label_new_texts(context: OpExecutionContext, profile: ProfileResource) -> None:
    """Runs `label`: the corpus is read again, and texts that the cache has not seen reach the teacher."""
    # Noted before the source is read: what arrives meanwhile is new for the next night.
    context.instance.add_run_tags(context.run_id, {INPUTS_TAG: inputs_state(profile)})
    _run(context, "label")


@op(ins=AFTER, out=Out(Nothing))
def redistil_students(context: OpExecutionContext, config: Night, profile: ProfileResource) -> None:
    """Runs `distil` for each student whose inputs changed; one that fails does not keep the others from it."""
    from pipelines.definitions import defs
    from pipelines.staleness import stale_students

    recipes = profile.recipes()
    context.instance.add_dynamic_partitions(str(students.name), list(recipes))
    graph = defs.resolve_asset_graph()
    chain = [key for key in graph.toposorted_asset_keys if graph.get(key).partitions_def == students]
    stale = stale_students(graph, chain, recipes, context.instance)
    stale |= {name: "asked for" for name in config.students if name not in stale}
    context.log.info("; ".join(f"{name}: {why}" for name, why in stale.items()) or "no student's inputs changed")
    for name, why in stale.items():
        try:
            _run(context, "distil", name, {WHY_TAG: why})
        except Failure as failure:
            context.log.error(f"{name} is left as it was: {failure.description}")


@op(ins=AFTER, out=Out(Nothing))
def decide_champion(context: OpExecutionContext) -> None:
    """Runs `decide`: compares all students of today's texts, and promotes one where it is shown to be better."""
    _run(context, "decide")


@op(ins=AFTER, out=Out(Nothing))
def summarise(context: OpExecutionContext, profile: ProfileResource) -> None:
    """Tells what the night did, on its run and as the asset `night`; fails where a student did."""
    summary = summarise_night(context.instance, _night(context), list(profile.recipes()))
    context.log_event(summary.materialization())
    context.instance.add_run_tags(context.run_id, {"finstill/outcome": summary.outcome})
    context.log.info(summary.text)
    if summary.failures:
        failed = summary.failures[0]
        raise Failure(
            f"{failed.partition}: {failed.stage}: {failed.cause}",
            metadata={
                "stage": failed.stage,
                "partition": str(failed.partition),
                "summary": MetadataValue.md(summary.text),
            },
        )


@job
def nightly_redistillation() -> None:
    """Takes what is new in the corpus's source, labels only that, retrains what it changes, compares, and promotes."""
    summarise(decide_champion(redistil_students(label_new_texts(take_dropped_files()))))


def _run(
    context: OpExecutionContext, name: str, partition: str | None = None, tags: dict[str, str] | None = None
) -> None:
    try:
        execute(name, context.instance, {NIGHT_TAG: _night(context), **(tags or {})}, partition)
    except RunFailedError as error:
        metadata = {"stage": error.stage} | ({"partition": error.partition} if error.partition else {})
        raise Failure(str(error), metadata=metadata) from None


def _night(context: OpExecutionContext) -> str:
    """Return what the runs of this night are found by: its first run's id, also where it is executed again."""
    return context.run.root_run_id or context.run_id
