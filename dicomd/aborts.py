"""The codes of an A-ABORT (PS3.8 §9.3.8, Table 9-26) and their names."""

from __future__ import annotations

from enum import IntEnum


class AbortSource(IntEnum):
    """Who aborts."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(IntEnum):
    """Why the service-provider aborts. For the service-user the field means nothing and is sent as NOT_SPECIFIED."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER = 6
