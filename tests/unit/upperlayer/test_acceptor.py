"""Compares the state table with PS3.8 Table 9-10, cell by cell, and with pynetdicom's version of it."""

import pytest
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE

from dicomd.upperlayer.acceptor import TABLE, AcceptorStateMachine, Action, Event, ImpossibleEventError, State

# PS3.8 Table 9-10, transcribed from the standard: columns: the acceptor's states Sta1, Sta2, Sta3, Sta6, Sta8, Sta13.
STANDARD = """
        Sta1   Sta2   Sta3   Sta6   Sta8   Sta13
Evt3    -      AA-1   AA-8   AA-8   AA-8   AA-6
Evt4    -      AA-1   AA-8   AA-8   AA-8   AA-6
Evt5    AE-5   -      -      -      -      -
Evt6    -      AE-6   AA-8   AA-8   AA-8   AA-7
Evt7    -      -      AE-7   -      -      -
Evt8    -      -      AE-8   -      -      -
Evt9    -      -      -      DT-1   AR-7   -
Evt10   -      AA-1   AA-8   DT-2   AA-8   AA-6
Evt12   -      AA-1   AA-8   AR-2   AA-8   AA-6
Evt13   -      AA-1   AA-8   AA-8   AA-8   AA-6
Evt14   -      -      -      -      AR-4   -
Evt15   -      -      AA-1   AA-1   AA-1   -
Evt16   -      AA-2   AA-3   AA-3   AA-3   AA-2
Evt17   -      AA-5   AA-4   AA-4   AA-4   AR-5
Evt18   -      AA-2   -      -      -      AA-2
Evt19   -      AA-1   AA-8   AA-8   AA-8   AA-7
"""
# PS3.8 Tables 9-6 to 9-9: the state an action leads to; AE-6 to Sta3, since a request is judged there.
NEXT = {
    "AE-5": "Sta2",
    "AE-6": "Sta3",
    "AE-7": "Sta6",
    "AE-8": "Sta13",
    "DT-1": "Sta6",
    "DT-2": "Sta6",
    "AR-2": "Sta8",
    "AR-4": "Sta13",
    "AR-5": "Sta1",
    "AR-7": "Sta8",
    "AA-1": "Sta13",
    "AA-2": "Sta1",
    "AA-3": "Sta1",
    "AA-4": "Sta1",
    "AA-5": "Sta1",
    "AA-6": "Sta13",
    "AA-7": "Sta13",
    "AA-8": "Sta13",
}


def cells() -> list[tuple[str, str, str]]:
    lines = STANDARD.strip().splitlines()
    states = lines[0].split()
    return [
        (line.split()[0], state, action)
        for line in lines[1:]
        for state, action in zip(states, line.split()[1:], strict=True)
    ]


@pytest.mark.parametrize(("event", "state", "action"), cells())
def test_every_cell_is_the_standards(event: str, state: str, action: str) -> None:
    machine = AcceptorStateMachine()
    machine.state = State(state)
    if action == "-":
        with pytest.raises(ImpossibleEventError):
            machine.happened(Event(event))
        assert machine.state is State(state)
        return
    assert machine.happened(Event(event)) is Action[action.replace("-", "_")]
    assert machine.state is State(NEXT[action])


@pytest.mark.parametrize("event", list(Event))
@pytest.mark.parametrize("state", list(State))
def test_agrees_with_pynetdicoms_table(event: Event, state: State) -> None:
    theirs = TRANSITION_TABLE.get((event.value, state.value))
    ours = TABLE[event].get(state)
    assert (ours and ours[0].name.replace("_", "-")) == theirs
    assert theirs is None or theirs in ACTIONS


def test_a_connection_starts_in_sta2() -> None:
    assert AcceptorStateMachine().state is State.AWAITING_ASSOCIATE_RQ
