"""Describes what is wrong with a configuration, for people.

A problem names the file, the key, what is wrong and what would be right. All problems are reported at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass


class UnacceptableError(ValueError):
    """A value is not acceptable. `what` says what is wrong, `expected` what would be accepted ("" if nothing would)."""

    def __init__(self, what: str, expected: str = "") -> None:
        super().__init__(f"{what} ({expected})" if expected else what)
        self.what = what
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about one key.

    `key` is the path of the key (`limits.max_pdu`, `peers[1].addresses[0]`), a place in the text (`line 3, column
    7`), or "" for the file as a whole.
    """

    file: str
    key: str
    what: str
    expected: str = ""

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        return f"{place}: {self.what} ({self.expected})" if self.expected else f"{place}: {self.what}"


class ConfigError(Exception):
    """The configuration can't be used. `problems` holds everything that was found, in the order of the schema."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
