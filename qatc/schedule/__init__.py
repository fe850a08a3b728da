"""When a run records ranges, quantizes and freezes."""

from qatc.schedule.plan import Plan
from qatc.schedule.settings import Schedule
from qatc.schedule.state import ScheduleState, follow

__all__ = ["Plan", "Schedule", "ScheduleState", "follow"]
