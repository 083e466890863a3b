"""What a night did, read from the event log of its runs, in sentences for whoever looks at it in the morning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dagster import (
    AssetCheckSeverity,
    AssetMaterialization,
    AssetRecordsFilter,
    AssetSpec,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    MetadataValue,
    RunsFilter,
)
from dagster._core.storage.tags import PARTITION_NAME_TAG

from assets.corpus import INPUTS_TAG, corpus
from assets.metadata import OWNERS, cell
from pipelines.failures import CAUSE_CHARACTERS, step_failure
from pipelines.jobs import decide, distil, nightly_redistillation

NIGHT_TAG = "finstill/night"
WHY_TAG = "finstill/why"

WHY_CHARACTERS = 500
"""A tag's length: PostgreSQL's index of tags takes no more than 2,704 bytes, and there may be many students."""


def tag_why(why: str) -> dict[str, str]:
    """Return the tag that says why a run was started."""
    return {WHY_TAG: why[:WHY_CHARACTERS]}


@dataclass(frozen=True)
class StageRun:
    """One of the runs of a night, and what it left in the event log.

    Attributes:
        metadata: of each asset that it materialized, by the asset's name.
        warnings: by check, what it said where it did not pass, else nothing.
        stage, cause: where it failed, and why; empty where it did not.
    """

    run: DagsterRun
    metadata: dict[str, dict[str, Any]]
    warnings: dict[str, str]
    stage: str
    cause: str

    @property
    def partition(self) -> str | None:
        return self.run.tags.get(PARTITION_NAME_TAG)

    @property
    def ending(self) -> str:
        """How it ended where it did not succeed: `failed` or `cancelled`."""
        if not self.stage:
            return ""
        return "cancelled" if self.run.status == DagsterRunStatus.CANCELED else "failed"

    def after(self, earlier: StageRun | None) -> StageRun:
        """Return what both did together: a run that was started again makes only what the first one did not."""
        if earlier is None:
            return self
        return replace(
            self,
            metadata={**earlier.metadata, **self.metadata},
            warnings={**earlier.warnings, **self.warnings},
        )


@dataclass(frozen=True)
class Summary:
    """A night in Markdown and in numbers.

    Attributes:
        night: its id.
        text: Markdown.
        outcome: `promoted` or `kept`; `failed` where a run did; `cancelled` where the labelling was.
        figures: what Dagster plots over the nights.
        inputs: what it was made from, see `ProfileResource.inputs`; None where it did not end well, or where somebody
            else read the corpus meanwhile.
    """

    night: str
    text: str
    outcome: str
    figures: dict[str, float | int]
    inputs: str | None

    def materialization(self) -> AssetMaterialization:
        """Return the event that puts this on the page of the asset `night`."""
        metadata = {"summary": MetadataValue.md(self.text), **self.figures}
        tags = {NIGHT_TAG: self.night} | ({INPUTS_TAG: self.inputs} if self.inputs else {})
        return AssetMaterialization(NIGHT.key, metadata=metadata, description=self.outcome, tags=tags)


NIGHT = AssetSpec(
    "night",
    description="What each night did: texts that were new, students that were retrained and why, and who is in "
    "service. Written by the sensor continue_night when the last run of a night has ended.",
    group_name="evaluation",
    kinds={"markdown"},
    owners=OWNERS,
    code_version="1",
)


def summarise_night(instance: DagsterInstance, night: str, recipes: Sequence[str]) -> Summary:
    """Return what the runs of a night did; where a stage was run twice, how the last one ended."""
    latest: dict[tuple[str, str | None], StageRun] = {}
    for run in reversed(instance.get_runs(RunsFilter(tags={NIGHT_TAG: night}))):
        each = _stage_run(instance, run)
        of = each.run.job_name, each.partition
        latest[of] = each.after(latest.get(of))
    failures = [run for run in latest.values() if run.stage]
    distilled = {str(partition): run for (job, partition), run in latest.items() if job == distil.name}
    lines: list[str] = []
    figures: dict[str, float | int] = {}

    first = latest[nightly_redistillation.name, None]
    if (texts := first.metadata.get("corpus")) and (logits := first.metadata.get("teacher_logits")):
        rows, reached = texts["dagster/row_count"], logits["rows_reached_by_the_teacher"]
        before = _rows_before(instance)
        grown = "" if before is None else f", {rows - before:+,}" if rows != before else ", as many as before"
        hit = "" if reached else ": all were in the cache"
        lines += [f"**Corpus.** {rows:,} texts{grown}.", f"**Teacher.** {reached:,} texts reached it{hit}."]
        figures |= {"texts": rows, "rows_reached_by_the_teacher": reached}
    if first.stage:
        lines.append(f"**Labelling {first.ending}** at {first.stage}: {_as_text(first.cause)}")
    else:
        lines.append("**Students.**\n" + "\n".join(f"- {line}" for line in _students(distilled, recipes)))
        failed = sum(bool(run.stage) for run in distilled.values())
        figures |= {"students_retrained": len(distilled) - failed, "students_failed": failed}

    decided = latest.get((decide.name, None))
    promoted = False
    if decided is not None:
        if champion := decided.metadata.get("champion"):
            promoted = bool(champion["promoted"])
            lines.append(f"**In service.** `{champion['champion']}`: {champion['reason']}.")
        if decided.stage:
            lines.append(f"**The comparison {decided.ending}** at {decided.stage}: {_as_text(decided.cause)}")
        if verdicts := decided.metadata.get("comparison", {}).get("verdicts"):
            lines.append(f"**Students and their label-only baselines.**\n{verdicts}")
    figures["promoted"] = int(promoted)
    if warnings := [warning for run in latest.values() for warning in run.warnings.values() if warning]:
        lines.append("**Checks to look at.**\n" + "\n".join(f"- {warning}" for warning in warnings))
    outcome = first.ending or ("failed" if failures else "promoted" if promoted else "kept")
    inputs = _inputs(instance, first.run) if outcome in ("promoted", "kept") else None
    return Summary(night, "\n\n".join(lines), outcome, figures, inputs)


def _students(distilled: dict[str, StageRun], recipes: Sequence[str]) -> list[str]:
    lines = []
    for name in [*recipes, *(name for name in distilled if name not in recipes)]:
        if name not in distilled:
            lines.append(f"`{name}` is kept: nothing that it was made from changed.")
            continue
        done = distilled[name]
        why = done.run.tags.get(WHY_TAG, "asked for")
        if done.stage:
            first_line = _as_text(done.cause.partition("\n")[0])
            lines.append(f"`{name}` **{done.ending}** at {done.stage} ({why}): {first_line}")
            continue
        measured = done.metadata.get("evaluation")
        if measured is None:
            # Somebody ran a part of the job.
            lines.append(f"`{name}` was not measured ({why}).")
            continue
        quality = f"macro-F1 {measured['macro_f1']:.3f}, " if "macro_f1" in measured else ""
        lines.append(f"`{name}` was made again ({why}): {quality}agreement {measured['agreement']:.3f}.")
    return lines


def _as_text(said: str) -> str:
    """Return what may quote the corpus as one paragraph of bounded length, of which Markdown and HTML draw nothing."""
    return cell(" ".join(said.split()), CAUSE_CHARACTERS)


def _inputs(instance: DagsterInstance, first: DagsterRun) -> str | None:
    """Return what the corpus says that it was made from, where the first run of a night read it last.

    A run that Dagster started again does not read it anew.
    """
    for record in instance.fetch_materializations(AssetRecordsFilter(asset_key=corpus.key), limit=1).records:
        made = record.asset_materialization
        if made is not None and record.run_id in (first.run_id, first.root_run_id):
            return (made.tags or {}).get(INPUTS_TAG)
    return None


def _rows_before(instance: DagsterInstance) -> int | None:
    """Return the rows of the corpus before the latest."""
    records = instance.fetch_materializations(AssetRecordsFilter(asset_key=corpus.key), limit=2).records
    if len(records) < 2 or records[1].asset_materialization is None:
        return None
    return records[1].asset_materialization.metadata["dagster/row_count"].value  # type: ignore[return-value]


def _stage_run(instance: DagsterInstance, run: DagsterRun) -> StageRun:
    metadata: dict[str, dict[str, Any]] = {}
    warnings: dict[str, str] = {}
    stage = cause = failed_check = ""
    wanted = {
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.RUN_FAILURE,
    }
    for entry in instance.all_logs(run.run_id, of_type=wanted):
        event = entry.get_dagster_event()
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            made = event.step_materialization_data.materialization
            metadata[made.asset_key.to_user_string()] = {name: value.value for name, value in made.metadata.items()}
        elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            # What distilling pays is said with the verdicts.
            if check.check_name != "distilling_pays":
                where = run.tags.get(PARTITION_NAME_TAG)
                of = f"{check.asset_key.to_user_string()} of `{where}`" if where else check.asset_key.to_user_string()
                name = f"{check.check_name} ({of})"
                warnings[name] = "" if check.passed else f"{name}: {_as_text(check.description or '')}"
                if not check.passed and check.severity == AssetCheckSeverity.ERROR:
                    failed_check = warnings[name]
        elif event.event_type == DagsterEventType.RUN_FAILURE:
            cause = cause or failed_check or event.message or ""
        elif not stage:
            stage, cause = step_failure(event)
    if run.status == DagsterRunStatus.CANCELED:
        cause = "somebody cancelled the run"
    if not stage and run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
        stage, cause = run.job_name, cause or "its process ended"
    return StageRun(run, metadata, warnings, stage, cause)
