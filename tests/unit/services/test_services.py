"""Requests and their statuses, with a store in memory that keeps the promises of `store.types`."""

import gc
import weakref

import pytest

from dicomd.dimse.commands import CommandSet, Response, parse_command_set
from dicomd.lacks import Lack
from dicomd.services.operations import PresentationContext, Services, Verification
from dicomd.services.storage import StorageService, StoreOperation
from dicomd.statuses import Status
from dicomd.store.errors import OutOfResources, OutOfSpace, StoreError
from dicomd.store.types import InstanceIdentity, Stored, Subject
from tests.support.encoding import command_set, us

CT, VERIFICATION, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1", "1.2.840.10008.1.2.1"
CONTEXT = PresentationContext(CT, EXPLICIT, "SCU", "SCP")


class MemoryWriter:
    def __init__(self, store: "MemoryStore") -> None:
        self.store, self.data, self.calls = store, b"", []

    @property
    def subject(self) -> Subject:
        return Subject(b"4711", b"1.2.3")

    def write(self, fragments: list[memoryview], size: int) -> None:
        self.calls.append("write")
        self.store.fail("write")
        self.data += b"".join(bytes(f) for f in fragments)

    def commit(self) -> Stored:
        self.calls.append("commit")
        self.store.fail("commit")
        return Stored("x.dcm", "", len(self.data), 0.0)

    def release(self) -> None:
        self.calls.append("release")

    def discard(self) -> None:
        self.calls.append("discard")


class MemoryStore:
    def __init__(self, step: str = "", error: Exception | None = None) -> None:
        self.step, self.error, self.writer = step, error, MemoryWriter(self)

    def fail(self, step: str) -> None:
        if step == self.step and self.error is not None:
            raise self.error

    def open(self, identity: InstanceIdentity) -> MemoryWriter:
        self.fail("open")
        return self.writer


def request(
    command: int = 1, *, sop_class: bytes = CT.encode(), instance: bytes = b"1.2.3", data_set: int = 1
) -> CommandSet:
    elements = {0x100: us(command), 0x110: us(1), 0x800: us(data_set)}
    for number, uid in ((2, sop_class), (0x1000, instance)):
        if uid:
            elements[number] = uid + b"\0" * (len(uid) % 2)
    return parse_command_set(command_set(elements))


def services(store: MemoryStore) -> Services:
    return Services(verification=Verification(), storage=StorageService(store))


def serve(store: MemoryStore, asked: CommandSet, context: PresentationContext = CONTEXT) -> Response | None:
    operation = services(store).begin(asked, context)
    if asked.has_data_set:
        operation.write([memoryview(b"abc"), memoryview(b"de")], 5)
        operation.write([memoryview(b"f")], 1)
    response = operation.finish()
    operation.release()
    return response


def test_success_follows_a_commit_and_nothing_else() -> None:
    store = MemoryStore()
    assert serve(store, request()) == Response(Status.SUCCESS)
    assert store.writer.data == b"abcdef"
    assert store.writer.calls == ["write", "write", "commit", "release"]


def test_no_failure_of_the_store_goes_by_the_status_of_another() -> None:
    kinds = StoreError.__subclasses__()
    assert [kind.__name__ for kind in kinds if "status" not in vars(kind)] == []
    assert len({kind.status for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("step", ["open", "write", "commit"])
@pytest.mark.parametrize("kind", [StoreError, *StoreError.__subclasses__()])
def test_every_failure_of_the_store_has_its_status(kind: type[StoreError], step: str) -> None:
    lacking = issubclass(kind, OutOfSpace)
    error = kind(Lack.QUOTA) if lacking else kind("It went wrong", operation="x", errno="EIO", element=0x00080018)
    store = MemoryStore(step, error)
    assert serve(store, request()) == Response(kind.status, error.message, () if lacking else (0x00080018,))
    if step != "open":
        assert store.writer.calls[-1] == "discard"


@pytest.mark.parametrize("step", ["open", "write", "commit"])
def test_the_unexpected_is_an_internal_error_and_kept_for_the_log(step: str) -> None:
    store = MemoryStore(step, ZeroDivisionError("oops"))
    operation = services(store).begin(request(), CONTEXT)
    assert isinstance(operation, StoreOperation)
    operation.write([memoryview(b"abc")], 3)
    response = operation.finish()
    assert response.status is Status.INTERNAL_ERROR
    assert "oops" not in response.comment
    assert isinstance(operation.unexpected, ZeroDivisionError)


def test_no_memory_is_a_lack_of_resources() -> None:
    response = serve(MemoryStore("write", MemoryError()), request())
    assert response is not None
    assert response.status is Status.OUT_OF_RESOURCES


def test_a_failure_keeps_nothing_open_that_the_store_had_open() -> None:
    """Otherwise each failure for lack of descriptors would leak more of them until the garbage collector runs."""

    class Open:
        pass

    left: list[weakref.ref[Open]] = []

    def commit() -> Stored:
        directory = Open()
        left.append(weakref.ref(directory))
        cause = OSError(24, "Too many open files")
        raise OutOfResources("Too many open files", operation="mkdir", errno="EMFILE") from cause

    store = MemoryStore()
    store.writer.commit = commit  # type: ignore[method-assign]
    gc.disable()
    try:
        operation = services(store).begin(request(), CONTEXT)
        assert isinstance(operation, StoreOperation)
        assert operation.finish().status == Status.OUT_OF_RESOURCES
        assert left[0]() is None
        assert operation.error is not None
        assert operation.error.errno == "EMFILE"
    finally:
        gc.enable()


def test_an_unknown_kind_of_store_error_is_told_as_its_ancestor() -> None:
    class NoInodes(OutOfSpace):
        pass

    response = serve(MemoryStore("commit", NoInodes(Lack.INODES)), request())
    assert response is not None
    assert response.status is Status.OUT_OF_SPACE


def test_a_failed_object_is_passed_over_to_its_end() -> None:
    store = MemoryStore("write", OutOfSpace(Lack.SPACE))
    operation = services(store).begin(request(), CONTEXT)
    for _ in range(3):
        operation.write([memoryview(b"abc")], 3)
    assert operation.finish().status is Status.OUT_OF_SPACE
    assert operation.size == 9
    assert store.writer.calls == ["write", "discard"]


def test_an_interrupted_object_is_discarded() -> None:
    store = MemoryStore()
    operation = services(store).begin(request(), CONTEXT)
    operation.write([memoryview(b"abc")], 3)
    operation.discard()
    assert store.writer.calls == ["write", "discard"]


@pytest.mark.parametrize(
    ("asked", "status", "element"),
    [
        (request(instance=b"1.2.x"), Status.INVALID_SOP_INSTANCE, 0x1000),
        (request(instance=b".."), Status.INVALID_SOP_INSTANCE, 0x1000),
        (request(instance=b"1" * 65), Status.INVALID_SOP_INSTANCE, 0x1000),
        (request(instance=b""), Status.INVALID_SOP_INSTANCE, 0x1000),
        (request(sop_class=b"1.2.840.10008.5.1.4.1.1.4"), Status.SOP_CLASS_NOT_SUPPORTED, 2),
        (request(sop_class=b""), Status.MISTYPED_ARGUMENT, 2),
        (request(data_set=0x0101), Status.MISTYPED_ARGUMENT, 0x800),
    ],
)
def test_a_wrong_request_is_answered_and_never_opened(asked: CommandSet, status: Status, element: int) -> None:
    store = MemoryStore("open", AssertionError("opened"))
    response = serve(store, asked)
    assert response is not None
    assert (response.status, response.offending_elements) == (status, (element,))


def test_nothing_is_stored_under_verification() -> None:
    context = PresentationContext(VERIFICATION, EXPLICIT, "SCU", "SCP")
    response = serve(MemoryStore(), request(sop_class=VERIFICATION.encode()), context)
    assert response is not None
    assert response.status is Status.SOP_CLASS_NOT_SUPPORTED


def test_echo() -> None:
    echo = request(0x30, sop_class=VERIFICATION.encode(), instance=b"", data_set=0x0101)
    context = PresentationContext(VERIFICATION, EXPLICIT, "SCU", "SCP")
    assert serve(MemoryStore(), echo, context) == Response(Status.SUCCESS)
    response = serve(MemoryStore(), echo, CONTEXT)
    assert response is not None
    assert response.status is Status.SOP_CLASS_NOT_SUPPORTED


def test_other_commands_are_unrecognized_and_cancel_has_no_answer() -> None:
    response = serve(MemoryStore(), request(0x20))
    assert response is not None
    assert response.status is Status.UNRECOGNIZED_OPERATION
    cancel = parse_command_set(command_set({0x100: us(0xFFF), 0x120: us(1), 0x800: us(0x101)}))
    assert serve(MemoryStore(), cancel) is None


def test_comments_fit_into_error_comment() -> None:
    for asked in (request(0x20), request(instance=b"x"), request(sop_class=b"1.2"), request(data_set=0x0101)):
        response = serve(MemoryStore(), asked)
        assert response is not None
        assert 0 < len(response.comment) <= 64
