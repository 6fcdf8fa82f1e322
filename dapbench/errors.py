"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Bad input: its message is one line that names the bad value, the valid ones and what to do."""
