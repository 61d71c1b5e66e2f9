"""Errors that a person can act on."""


class UserError(ValueError):
    """What was found, what is allowed, what to do next; shown without a traceback."""
