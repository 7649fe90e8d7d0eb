"""Audits a C-STORE. A stored instance is audited before the answer is sent, since nothing is certain after it.

A process may be killed at any time. The sender deletes its copy once it gets success, so by then it has to be on record
that the instance was received.
"""

from __future__ import annotations

from dicomd.audit.events import Action
from dicomd.audit.transfers import AssociationAudit
from dicomd.services.operations import Operation
from dicomd.services.storage import StoreOperation

_ACTIONS: dict[str, Action] = {"identical": "R", "rejected": "R", "replaced": "U"}
"""What an audit message calls the result of a duplicate; any other instance was created ("C")."""


def audit_stored(audit: AssociationAudit, operation: Operation) -> None:
    """Audit what a request has stored, just before its response is sent."""
    if isinstance(operation, StoreOperation) and operation.stored is not None:
        action = _ACTIONS.get(operation.stored.duplicate, "C")
        audit.instance(*operation.subject, operation.identity.sop_class_uid, action, stored=True)


def audit_not_stored(audit: AssociationAudit, operation: StoreOperation, duplicate: str) -> None:
    """Audit an instance that was refused or received only in part."""
    action = _ACTIONS.get(duplicate, "C")
    audit.instance(*operation.subject, operation.identity.sop_class_uid, action, stored=False)
