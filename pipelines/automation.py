"""Freshness of what people read, and the conditions under which assets would make themselves.

The schedule `nightly` and the sensor `dropped_files` are the usual way. The sensor `automation`, off by default, is the
other one: turned on, it makes each asset by its own condition, and the schedule is then turned off.
"""

from __future__ import annotations

from datetime import timedelta

from dagster import (
    AssetSelection,
    AssetSpec,
    AutomationCondition,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    FreshnessPolicy,
)

from assets.champion import champion
from assets.comparison import comparison
from assets.corpus import corpus
from assets.tuning import tuning
from pipelines.deployment import nightly_cron, time_zone

READ_BY_PEOPLE = {comparison.key, champion.key}

# A corpus that does not grow for a week is a source that has run dry, and someone should know.
FRESHNESS = FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=3))

# `eager` fires at anything made again; with data versions only what changed counts. A student that was never made does
# not keep the comparison of the others from it.
WHEN_INPUTS_CHANGE = (
    AutomationCondition.eager()  # type: ignore[union-attr]
    .replace("newly_updated", AutomationCondition.data_version_changed())
    .without(~AutomationCondition.any_deps_missing())
)

automation = AutomationConditionSensorDefinition(
    "automation", target=AssetSelection.all(), default_status=DefaultSensorStatus.STOPPED
)


def looked_after(spec: AssetSpec) -> AssetSpec:
    """Return an asset's spec with its condition, and with a freshness policy where people read it.

    A search for a better recipe takes hours: only people start it.
    """
    if spec.key == tuning.key:
        return spec
    condition = (
        AutomationCondition.on_cron(nightly_cron(), time_zone()) if spec.key == corpus.key else WHEN_INPUTS_CHANGE
    )
    spec = spec.replace_attributes(automation_condition=condition)
    return spec.replace_attributes(freshness_policy=FRESHNESS) if spec.key in READ_BY_PEOPLE else spec
