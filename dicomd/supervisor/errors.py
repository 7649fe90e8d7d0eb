"""The error that keeps the daemon from starting, explained to the person who started it."""


class StartError(Exception):
    """The daemon can't start; the message says why, and what to do about it."""
