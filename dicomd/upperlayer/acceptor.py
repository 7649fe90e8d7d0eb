"""What may come next on an Association: the acceptor's part of the state machine of PS3.8 §9.2, whole, in one table.

Invariant: nothing else in dicomd decides whether a PDU is in place. (It isn't asked about each P-DATA-TF of an open
Association, for which the answer is always DT-2.) dicomd requests neither an Association nor its release, so the other
states (Sta4, Sta5, Sta7, Sta9 to Sta12) can't be reached and have no column.

        Sta1 ── connection ──▶ Sta2 ── A-ASSOCIATE-RQ ──▶ Sta3 ── accept ──▶ Sta6 ── A-RELEASE-RQ ──▶ Sta8
         ▲                      │                          │ reject           │                        │ A-RELEASE-RP
         │                      ▼ anything else            ▼                  ▼ out of place: A-ABORT  ▼
         └── closed or ARTIM ── Sta13 ◀────────────────────┴──────────────────┴────────────────────────┘
"""

from __future__ import annotations

from enum import Enum, auto

from dicomd.upperlayer.pdus import PDUType


class State(Enum):
    """The states that an acceptor can be in (PS3.8 §9.2.2, Tables 9-1 to 9-5)."""

    IDLE = "Sta1"
    AWAITING_ASSOCIATE_RQ = "Sta2"
    AWAITING_ASSOCIATE_RESPONSE = "Sta3"
    ESTABLISHED = "Sta6"
    AWAITING_RELEASE_RESPONSE = "Sta8"
    AWAITING_CLOSE = "Sta13"

    __hash__ = object.__hash__  # looked up for each instance, and Enum's own hash is written in Python


class Event(Enum):
    """What can happen to an acceptor (PS3.8 Table 9-10, first column)."""

    ASSOCIATE_AC_RECEIVED = "Evt3"
    ASSOCIATE_RJ_RECEIVED = "Evt4"
    CONNECTED = "Evt5"
    ASSOCIATE_RQ_RECEIVED = "Evt6"
    ACCEPT = "Evt7"
    REJECT = "Evt8"
    SEND_DATA = "Evt9"
    DATA_RECEIVED = "Evt10"
    RELEASE_RQ_RECEIVED = "Evt12"
    RELEASE_RP_RECEIVED = "Evt13"
    RELEASE = "Evt14"
    ABORT = "Evt15"
    ABORT_RECEIVED = "Evt16"
    CLOSED = "Evt17"
    ARTIM_EXPIRED = "Evt18"
    INVALID_PDU = "Evt19"

    __hash__ = object.__hash__


class Action(Enum):
    """What an event requires (PS3.8 Tables 9-6 to 9-9); the comment is dicomd's reading of it."""

    AE_5 = auto()  # start ARTIM
    AE_6 = auto()  # judge the request
    AE_7 = auto()  # send A-ASSOCIATE-AC
    AE_8 = auto()  # send A-ASSOCIATE-RJ, start ARTIM
    DT_1 = auto()  # send P-DATA-TF
    DT_2 = auto()  # take the P-DATA-TF
    AR_2 = auto()  # the peer asks for release
    AR_4 = auto()  # send A-RELEASE-RP, start ARTIM
    AR_5 = auto()  # stop ARTIM
    AR_7 = auto()  # send P-DATA-TF although release was asked for
    AA_1 = auto()  # send A-ABORT (service-user), start ARTIM
    AA_2 = auto()  # stop ARTIM, close
    AA_3 = auto()  # the peer aborted: close
    AA_4 = auto()  # the connection is gone
    AA_5 = auto()  # stop ARTIM
    AA_6 = auto()  # ignore the PDU
    AA_7 = auto()  # send A-ABORT
    AA_8 = auto()  # send A-ABORT (service-provider), start ARTIM


class ImpossibleEventError(RuntimeError):
    """An event that Table 9-10 leaves blank in this state: a defect of dicomd's, never of the peer's."""


_STA1, _STA2, _STA3 = State.IDLE, State.AWAITING_ASSOCIATE_RQ, State.AWAITING_ASSOCIATE_RESPONSE
_STA6, _STA8, _STA13 = State.ESTABLISHED, State.AWAITING_RELEASE_RESPONSE, State.AWAITING_CLOSE

_OUT_OF_PLACE = {
    _STA2: (Action.AA_1, _STA13),
    _STA3: (Action.AA_8, _STA13),
    _STA6: (Action.AA_8, _STA13),
    _STA8: (Action.AA_8, _STA13),
    _STA13: (Action.AA_6, _STA13),
}

TABLE: dict[Event, dict[State, tuple[Action, State]]] = {
    Event.ASSOCIATE_AC_RECEIVED: _OUT_OF_PLACE,
    Event.ASSOCIATE_RJ_RECEIVED: _OUT_OF_PLACE,
    Event.CONNECTED: {_STA1: (Action.AE_5, _STA2)},
    Event.ASSOCIATE_RQ_RECEIVED: _OUT_OF_PLACE | {_STA2: (Action.AE_6, _STA3), _STA13: (Action.AA_7, _STA13)},
    Event.ACCEPT: {_STA3: (Action.AE_7, _STA6)},
    Event.REJECT: {_STA3: (Action.AE_8, _STA13)},
    Event.SEND_DATA: {_STA6: (Action.DT_1, _STA6), _STA8: (Action.AR_7, _STA8)},
    Event.DATA_RECEIVED: _OUT_OF_PLACE | {_STA6: (Action.DT_2, _STA6)},
    Event.RELEASE_RQ_RECEIVED: _OUT_OF_PLACE | {_STA6: (Action.AR_2, _STA8)},
    Event.RELEASE_RP_RECEIVED: _OUT_OF_PLACE,
    Event.RELEASE: {_STA8: (Action.AR_4, _STA13)},
    Event.ABORT: dict.fromkeys((_STA3, _STA6, _STA8), (Action.AA_1, _STA13)),
    Event.ABORT_RECEIVED: {
        _STA2: (Action.AA_2, _STA1),
        _STA3: (Action.AA_3, _STA1),
        _STA6: (Action.AA_3, _STA1),
        _STA8: (Action.AA_3, _STA1),
        _STA13: (Action.AA_2, _STA1),
    },
    Event.CLOSED: {
        _STA2: (Action.AA_5, _STA1),
        _STA3: (Action.AA_4, _STA1),
        _STA6: (Action.AA_4, _STA1),
        _STA8: (Action.AA_4, _STA1),
        _STA13: (Action.AR_5, _STA1),
    },
    Event.ARTIM_EXPIRED: {_STA2: (Action.AA_2, _STA1), _STA13: (Action.AA_2, _STA1)},
    Event.INVALID_PDU: _OUT_OF_PLACE | {_STA13: (Action.AA_7, _STA13)},
}
"""PS3.8 Table 9-10, the acceptor's rows and columns: event → state → (action, next state)."""

RECEIVED: dict[int, Event] = {
    PDUType.A_ASSOCIATE_RQ: Event.ASSOCIATE_RQ_RECEIVED,
    PDUType.A_ASSOCIATE_AC: Event.ASSOCIATE_AC_RECEIVED,
    PDUType.A_ASSOCIATE_RJ: Event.ASSOCIATE_RJ_RECEIVED,
    PDUType.P_DATA_TF: Event.DATA_RECEIVED,
    PDUType.A_RELEASE_RQ: Event.RELEASE_RQ_RECEIVED,
    PDUType.A_RELEASE_RP: Event.RELEASE_RP_RECEIVED,
    PDUType.A_ABORT: Event.ABORT_RECEIVED,
}
"""The event that each PDU type raises on arrival."""


class AcceptorStateMachine:
    """The state of one Association, changed only by `happened`. Starts in Sta2: its connection is already open."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = TABLE[Event.CONNECTED][State.IDLE][1]

    def happened(self, event: Event) -> Action:
        """Move to the next state and return the action that PS3.8 Table 9-10 requires.

        Raises `ImpossibleEventError` where the table is blank.
        """
        try:
            action, self.state = TABLE[event][self.state]
        except KeyError:
            raise ImpossibleEventError(f"{event.value} {event.name} can't happen in {self.state.value}") from None
        return action
