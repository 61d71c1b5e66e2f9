"""Errors that a person can act on."""


class UserError(ValueError):
    """Say what was found, what is allowed and what to do next; shown without a traceback."""
