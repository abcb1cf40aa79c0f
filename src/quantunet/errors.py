"""The user's mistakes: what, where, and how to mend it, in one line."""


class UserError(ValueError):
    """A mistake that the user can mend. The command line prints its message and exits with status 2."""
