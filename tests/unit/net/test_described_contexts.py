"""Presentation Contexts in a log line: refused ones first, at most sixteen, within the bounds of a field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pydicom.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomd.net.described_contexts import MAX_NAMED, named_contexts
from dicomd.telemetry.fields import MAX_VALUE, safe_value
from dicomd.upperlayer.proposals import ProposedContext

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


@pytest.fixture(autouse=True, scope="module")
def as_in_the_daemon() -> Iterator[None]:
    """Silence pydicom about invalid UIDs, as `quiet_decoders` does in the daemon."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
        yield


def line_of(contexts: list[ProposedContext]) -> list[Any]:
    return named_contexts(contexts, proposed=len(contexts), refused=sum(context.result != 0 for context in contexts))


def some(count: int, *results: int) -> list[ProposedContext]:
    return [
        ProposedContext(2 * number + 1, CT, (EXPLICIT_LITTLE,), 0, results[number % len(results)])
        for number in range(count)
    ]


def test_contexts_that_are_all_acceptable_are_only_counted_where_they_are_many() -> None:
    assert line_of(some(128, 0)) == ["128 contexts, all acceptable"]
    assert [context["context_id"] for context in line_of(some(3, 0))] == [1, 3, 5]


@pytest.mark.parametrize(
    ("contexts", "rest"),
    [
        (some(17, 3), "and 1 more, all refused"),
        (some(128, 3), "and 112 more, all refused"),
        (some(128, 0, 3), "and 112 more, 48 of them refused"),
        (some(17, *[0] * 16, 1), "and 16 more, all acceptable"),
    ],
)
def test_refused_ones_are_named_and_the_rest_is_counted(contexts: list[ProposedContext], rest: str) -> None:
    *named, said = line_of(contexts)
    assert said == rest
    assert all(context["result"] for context in named)
    assert len(named) == len(contexts) - int(rest.split()[1]) <= MAX_NAMED


def test_where_nobody_counted_the_refused_the_rest_is_only_counted() -> None:
    *named, said = named_contexts(some(16, 3), proposed=128, refused=None)
    assert said.startswith("and ")
    assert int(said.split()[1]) + len(named) == 128
    assert "refused" not in said


def test_few_are_all_named_refused_ones_first() -> None:
    assert [context["result"] for context in line_of(some(6, 0, 4, 3))] == [4, 3, 4, 3, 0, 0]


def test_transfer_syntaxes_are_named_where_they_matter() -> None:
    accepted, unknown, refused = (
        named_contexts([ProposedContext(1, CT, tuple("abcdefghij"), 3, result)], proposed=1, refused=int(result > 0))[0]
        for result in (0, 3, 4)
    )
    assert accepted["transfer_syntaxes"] == refused["transfer_syntaxes"] == [*"abcdefgh", "and 5 more"]
    assert "transfer_syntaxes" not in unknown
    assert unknown["name"] == "CT Image Storage"


UIDS = st.text(max_size=80) | st.sampled_from([CT, EXPLICIT_LITTLE, "\x80" * 70, "1." * 70, '"\\' * 35])
CONTEXTS = st.builds(
    ProposedContext,
    st.integers(0, 255),
    UIDS,
    st.lists(UIDS, max_size=9).map(tuple),
    st.sampled_from([0, 112]),
    st.sampled_from([0, 1, 3, 4]),
)


@given(st.lists(CONTEXTS, max_size=5), st.sampled_from([1, 3, 4, 25]))
def test_whatever_is_proposed_fits_into_one_field(few: list[ProposedContext], times: int) -> None:
    contexts = few * times
    found = line_of(contexts)
    assert len(orjson.dumps(found)) <= MAX_VALUE
    assert safe_value(found) == found, "the value was cut a second time"
    named = [context for context in found if isinstance(context, dict)]
    assert len(named) <= MAX_NAMED
    assert len(named) == len(contexts) or isinstance(found[-1], str)
