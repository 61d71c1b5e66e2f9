"""The error that is nobody's answer's fault."""


class RewardError(RuntimeError):
    """The grader itself is broken, so a score would mean nothing."""
