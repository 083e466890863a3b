"""Sensors: what makes runs by itself."""

from __future__ import annotations

from dagster import DefaultSensorStatus, SensorEvaluationContext, SensorResult, SkipReason, sensor

from assets.resources import ProfileResource
from assets.students import students


@sensor(minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def new_recipes(context: SensorEvaluationContext, profile: ProfileResource) -> SensorResult | SkipReason:
    """Makes each recipe of the profile's recipe file a partition, without a restart."""
    existing = set(context.instance.get_dynamic_partitions(str(students.name)))
    new = [name for name in profile.recipes() if name not in existing]
    if not new:
        return SkipReason(f"each recipe of {profile.profile().recipes} is a partition")
    return SensorResult(dynamic_partitions_requests=[students.build_add_request(new)])
