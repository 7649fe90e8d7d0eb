"""The Storage Service Class (PS3.4 Annex B): serves C-STORE and decides its status.

Invariant: success is answered only after the store's `commit` has returned. Failures of the store become responses here
and nowhere else, with the status of their class (`dicomd.store.errors`).
"""

from __future__ import annotations

from dicomd.dimse.commands import SUCCESS, CommandSet, Element, Response
from dicomd.services.operations import PresentationContext
from dicomd.statuses import Status
from dicomd.store.errors import OutOfResources, StoreError
from dicomd.store.types import InstanceIdentity, InstanceStore, InstanceWriter, Stored, Subject
from dicomd.uids import VERIFICATION_SOP_CLASS, recurring_uid_from_value, uid_from_value


class StoreOperation:
    """One C-STORE. Its outcome can be read at the end: `response`, `stored`, `error`, `unexpected`, `subject`."""

    __slots__ = ("_over", "_writer", "error", "identity", "response", "size", "stored", "unexpected")

    def __init__(self, identity: InstanceIdentity, response: Response | None = None) -> None:
        self.identity = identity
        self.response = response
        self.size = 0
        self.stored: Stored | None = None
        self.error: StoreError | None = None
        self.unexpected: Exception | None = None
        self._writer: InstanceWriter | None = None
        self._over: InstanceWriter | None = None

    def open(self, store: InstanceStore) -> None:
        """Begin the instance in `store`."""
        try:
            self._writer = store.open(self.identity)
        except Exception as error:  # failures become statuses here, in one place
            self._failed(error)

    def write(self, fragments: list[memoryview], size: int) -> None:
        """Pass `size` bytes of the Data Set to the store; ignore them once the operation has failed."""
        self.size += size
        if self._writer is None:
            return
        try:
            self._writer.write(fragments, size)
        except Exception as error:  # as above
            self._failed(error)

    @property
    def commits(self) -> str:
        """The SOP Instance UID of the instance, unless it has failed already."""
        return "" if self._writer is None else self.identity.sop_instance_uid

    def finish(self) -> Response:
        """Publish the instance and return its status."""
        if self._writer is not None:
            try:
                self.stored = self._writer.commit()
            except Exception as error:  # as above
                self._failed(error)
        if self.response is None:
            # Success allows the peer to delete its own copy, so never answer it unless `commit` has returned.
            self.response = SUCCESS if self.stored is not None else _INTERNAL_ERROR
        return self.response

    def release(self) -> None:
        """Let the store clean up after itself."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._over = writer
            writer.release()

    def discard(self) -> None:
        """Discard an incomplete instance."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._over = writer
            writer.discard()

    @property
    def subject(self) -> Subject:
        """The patient and study of the instance, as far as they have been read."""
        writer = self._over or self._writer
        return Subject() if writer is None else writer.subject

    def _failed(self, error: Exception) -> None:
        self.discard()
        if isinstance(error, MemoryError):
            error = OutOfResources("Out of memory", operation="memory", errno="ENOMEM")
        if isinstance(error, StoreError):
            # The error speaks for itself. The frames of its traceback would keep the store's open files and this
            # operation alive.
            error.__cause__ = error.__context__ = None
            self.error = error.with_traceback(None)
            elements = () if error.element is None else (error.element,)
            self.response = Response(error.status, error.message, elements)
        else:
            self.unexpected = error
            self.response = _INTERNAL_ERROR


_INTERNAL_ERROR = Response(Status.INTERNAL_ERROR, "Internal error of the receiver")


class StorageService:
    """Begins C-STORE operations in one store."""

    def __init__(self, store: InstanceStore) -> None:
        self._store = store

    def begin(self, request: CommandSet, context: PresentationContext) -> StoreOperation:
        """Check the request (PS3.7 §9.1.1) and open the instance.

        A request that is wrong, or that the peer may not make, gets an operation that only answers with its status.
        """
        instance_uid = uid_from_value(request.value(Element.AFFECTED_SOP_INSTANCE_UID))
        class_uid = recurring_uid_from_value(request.value(Element.AFFECTED_SOP_CLASS_UID))
        response = None
        if not context.rights.store:
            response = Response(Status.NOT_AUTHORIZED, "This peer may not store")
        elif not request.has_data_set:
            response = Response(Status.MISTYPED_ARGUMENT, "A C-STORE-RQ needs a Data Set", (0x00000800,))
        elif class_uid is None:
            response = Response(Status.MISTYPED_ARGUMENT, "Affected SOP Class UID is missing or invalid", (0x00000002,))
        elif class_uid != context.abstract_syntax or class_uid == VERIFICATION_SOP_CLASS:
            response = Response(
                Status.SOP_CLASS_NOT_SUPPORTED, "SOP Class is not stored in this Presentation Context", (0x00000002,)
            )
        elif instance_uid is None:
            response = Response(
                Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID is missing or invalid", (0x00001000,)
            )
        _, transfer_syntax, calling, called, _, peer = context
        identity = InstanceIdentity(class_uid or "", instance_uid or "", transfer_syntax, calling, called, peer)
        operation = StoreOperation(identity, response)
        if response is None:
            operation.open(self._store)
        return operation
