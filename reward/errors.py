"""Define the error of a broken grader, which no response has caused."""


class RewardError(RuntimeError):
    """Say that the grader itself is broken, so that a score would mean nothing."""
