"""What of a C-STORE is audited, and when: what was stored before the answer, since nothing after it is certain.

A process may be killed at any time. Once the sender has been told success it deletes its copy; that the instance came
has to be on record by then.
"""

from __future__ import annotations

from dicomd.audit.events import Action
from dicomd.audit.transfers import AssociationAudit
from dicomd.services.operations import Operation
from dicomd.services.storage import StoreOperation

_ACTIONS: dict[str, Action] = {"identical": "R", "rejected": "R", "replaced": "U"}
"""How an audit message calls what became of a duplicate; all else that came was created."""


def before_answer(audit: AssociationAudit, operation: Operation) -> None:
    """A request has been served, and its response is about to be sent."""
    if isinstance(operation, StoreOperation) and operation.stored is not None:
        action = _ACTIONS.get(operation.stored.duplicate, "C")
        audit.instance(*operation.subject, operation.identity.sop_class_uid, action, stored=True)


def not_stored(audit: AssociationAudit, operation: StoreOperation, duplicate: str) -> None:
    """An instance was refused, or came in part only."""
    action = _ACTIONS.get(duplicate, "C")
    audit.instance(*operation.subject, operation.identity.sop_class_uid, action, stored=False)
