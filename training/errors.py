"""The one class of errors that a person can correct: the command line shows their message, never a traceback."""


class UserError(Exception):
    """The message names the file or the flag, and the remedy."""
