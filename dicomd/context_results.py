"""The results of the Presentation Contexts in an A-ASSOCIATE-AC (PS3.8 Table 9-18)."""

from __future__ import annotations

from typing import Final

ACCEPTANCE: Final = 0
USER_REJECTION: Final = 1
NO_REASON: Final = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4
