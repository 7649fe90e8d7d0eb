"""Recognizes the protocol of a peer that doesn't speak the listener's, by the first bytes that it sends.

Such a peer is configured wrongly rather than hostile, and its own log rarely says why nothing works. So the log of
dicomd says what it speaks, and what to change.
"""

from __future__ import annotations

from enum import StrEnum

FIRST_BYTES = 6
"""How many bytes `recognize` needs: the header of a PDU."""

_TLS_HANDSHAKE = b"\x16\x03"  # a record of type handshake, of TLS 1.0 to 1.3 (RFC 8446 §5.1)
_ASSOCIATE_RQ = b"\x01\x00\x00"  # type, reserved, and the first byte of a length that is below 16 MiB (PS3.8 §9.3.2)
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTION", b"DELETE", b"CONNEC", b"PATCH ", b"TRACE ", b"PRI * ")


class Spoken(StrEnum):
    """What a peer speaks, as its counter is labelled."""

    DICOM = "dicom"
    TLS = "tls"
    HTTP = "http"


def recognize(first: bytes) -> Spoken | None:
    """Return the protocol of which these are the first bytes of a connection; None if it isn't known."""
    if first.startswith(_TLS_HANDSHAKE):
        return Spoken.TLS
    if first.startswith(_ASSOCIATE_RQ):
        return Spoken.DICOM
    return Spoken.HTTP if first.startswith(_HTTP_METHODS) else None


def advice(spoken: Spoken, listener: str) -> str:
    """Say what to change so that a peer that speaks this instead of what `listener` speaks can be served."""
    if spoken is Spoken.TLS:
        return (
            f'the peer speaks TLS and the listener "{listener}" does not: set tls = true there, or send to a listener '
            "that has it, or switch TLS off at the peer"
        )
    if spoken is Spoken.DICOM:
        return (
            f'the peer speaks DICOM without TLS and the listener "{listener}" requires it: switch TLS on at the peer, '
            "or let it send to a listener without tls"
        )
    return f'the peer speaks HTTP to the DICOM listener "{listener}": the metrics and the status are at http.address'
