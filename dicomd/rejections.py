"""The codes of an A-ASSOCIATE-RJ (PS3.8 §9.3.4, Table 9-21) and their names."""

from __future__ import annotations

from enum import Enum, IntEnum


class RejectResult(IntEnum):
    """Whether the peer may try again."""

    PERMANENT = 1
    TRANSIENT = 2


class RejectSource(IntEnum):
    """Who rejects."""

    SERVICE_USER = 1
    PROVIDER_ACSE = 2
    PROVIDER_PRESENTATION = 3


class RejectReason(Enum):
    """Why an Association is rejected. The `code` of a reason has its meaning only together with its `source`."""

    NO_REASON_GIVEN = RejectSource.SERVICE_USER, 1
    APPLICATION_CONTEXT_NAME_NOT_SUPPORTED = RejectSource.SERVICE_USER, 2
    CALLING_AE_TITLE_NOT_RECOGNIZED = RejectSource.SERVICE_USER, 3
    CALLED_AE_TITLE_NOT_RECOGNIZED = RejectSource.SERVICE_USER, 7
    NO_REASON_GIVEN_BY_ACSE = RejectSource.PROVIDER_ACSE, 1
    PROTOCOL_VERSION_NOT_SUPPORTED = RejectSource.PROVIDER_ACSE, 2
    TEMPORARY_CONGESTION = RejectSource.PROVIDER_PRESENTATION, 1
    LOCAL_LIMIT_EXCEEDED = RejectSource.PROVIDER_PRESENTATION, 2

    def __init__(self, source: RejectSource, code: int) -> None:
        self.source = source
        self.code = code

    @property
    def result(self) -> RejectResult:
        """The result that dicomd sends with this reason: only congestion and limits may be over at the next attempt."""
        passes = self.source is RejectSource.PROVIDER_PRESENTATION
        return RejectResult.TRANSIENT if passes else RejectResult.PERMANENT

    @property
    def codes(self) -> tuple[int, int, int]:
        """Result, source and reason, as they are sent."""
        return int(self.result), int(self.source), self.code

    def __str__(self) -> str:
        """Result, source and reason, such as "1/1/3"."""
        return "/".join(map(str, self.codes))
