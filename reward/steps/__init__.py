"""Judge how far a response is correct before its first wrong step."""

from reward.steps.arithmetic import ArithmeticJudge
from reward.steps.base import Attempt, JudgeSettings, StepJudge

__all__ = ["Attempt", "JudgeSettings", "StepJudge", "begin"]


def begin(settings: JudgeSettings) -> StepJudge | None:
    """Return the judge that the settings choose; None if they choose none."""
    if settings.kind == "server":
        # The client of the server takes a second to import.
        from reward.steps.server import ServerJudge

        return ServerJudge(settings)
    return ArithmeticJudge() if settings.kind == "arithmetic" else None
