"""What all Associations of a worker share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from dicomd.net.admission import Admission
from dicomd.net.buffers import BufferPool
from dicomd.net.committers import Committers
from dicomd.net.deadlines import TimeLimits
from dicomd.net.large_requests import LargeRequests
from dicomd.services.operations import Services
from dicomd.upperlayer.negotiation import Negotiator


@dataclass(frozen=True, slots=True)
class AcceptorSettings:
    """The settings and resources of a worker. `max_pdu` is in bytes, as advertised; `tls` is for TLS listeners."""

    negotiator: Negotiator
    services: Services
    admission: Admission
    limits: TimeLimits
    max_pdu: int
    buffers: BufferPool
    large_requests: LargeRequests = field(default_factory=LargeRequests)
    committers: Committers = field(default_factory=Committers)
    tls: ssl.SSLContext | None = None
