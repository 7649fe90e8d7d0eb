"""What a wait of the tests says when it ends in vain, so that a failure on another machine can be understood."""

import pytest

from tests.support.waiting import wait_until


class OtherError(Exception):
    pass


def test_what_fulfils_the_condition_is_returned() -> None:
    counts = iter(range(10))
    assert wait_until(lambda: next(counts), pause=0) == 1  # the first true one
    assert wait_until(lambda: next(counts), equals=4, pause=0) == 4
    assert wait_until(lambda: next(counts), until=lambda count: count > 6, pause=0) == 7
    assert next(counts) == 8  # one look for each


def test_a_failure_says_what_was_waited_for_and_what_was_seen_last() -> None:
    workers = ["ready", "starting"]
    with pytest.raises(AssertionError) as failure:
        wait_until(lambda: workers.count("ready"), 0.02, equals=2, what="a worker is not ready")
    message = str(failure.value)
    assert message.startswith('a worker is not ready: waited 0.02 s for `wait_until(lambda: workers.count("ready"), ')
    assert message.endswith("and saw 1 last, not 2")


def test_a_function_is_named_and_a_failure_may_be_of_another_kind() -> None:
    with pytest.raises(OtherError, match=r"^empty: waited 0 s for `list.copy`, and saw \[\] last$"):
        wait_until([].copy, 0, what="empty", failed=OtherError)


def test_the_condition_is_looked_at_once_more_at_the_deadline_and_its_errors_end_the_wait() -> None:
    assert wait_until(lambda: True, 0) is True
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)
