"""Learning-rate schedules as pure functions of the step."""

from lrtune.schedules.build import Schedule, build_schedule

__all__ = ["Schedule", "build_schedule"]
