"""Learning-rate schedules as pure functions: shapes of a decay, composition, plateau feedback, recipe to schedule."""

from lrtune.schedules.build import Schedule, build_schedule

__all__ = ["Schedule", "build_schedule"]
