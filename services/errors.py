"""The one kind of error that a user can mend."""


class MendableError(Exception):
    """Something a user can put right; the message is one sentence: what, where, what to do.

    The command prints it without a traceback and exits with 1.
    """
