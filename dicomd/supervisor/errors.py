"""What keeps the daemon from starting, as a sentence for the person who started it."""


class StartError(Exception):
    """The daemon can't start; the message says why, and what would help."""
