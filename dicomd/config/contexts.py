"""Resolves the names in [contexts] to UIDs: the Presentation Contexts that are accepted.

Names are resolved here, once; negotiation sees only UIDs. A SOP Class may be given as a group ("all-storage", "any"), a
keyword or a UID, a Transfer Syntax as a group ("all", "uncompressed", "lossless"), a keyword or a UID; private UIDs are
accepted unchanged. pydicom and pynetdicom are imported on first use, so that commands that need no configuration start
fast.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dicomd.config.problems import UnacceptableError
from dicomd.formatting import shown
from dicomd.uids import MAX_UID_LENGTH, VERIFICATION_SOP_CLASS

SOP_CLASS_GROUPS = ("all-storage", "any")
TRANSFER_SYNTAX_GROUPS = ("all", "uncompressed", "lossless")

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*", re.ASCII)

# PS3.5 §10 and Annex A: none of these changes a pixel value. Deflate compresses the whole Data Set and comes last,
# because it is the slowest to read back.
_UNCOMPRESSED = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
)
_REVERSIBLE = (
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless, Process 14
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, Process 14, Selection Value 1
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000, lossless only
    "1.2.840.10008.1.2.4.92",  # JPEG 2000 Part 2 Multi-component, lossless only
    "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000, lossless only
    "1.2.840.10008.1.2.4.202",  # High-Throughput JPEG 2000 with RPCL options, lossless only
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
)
# PS3.6 Table A-1: these have "Storage" in their names, but no instance is ever sent by C-STORE under them.
_STORAGE_IN_NAME_ONLY = frozenset(
    {
        "1.2.840.10008.1.3.10",  # Media Storage Directory Storage (PS3.10 §8)
        "1.2.840.10008.1.20.1",  # Storage Commitment Push Model
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model
    }
)


@dataclass(frozen=True, slots=True)
class SupportedContexts:
    """What is accepted. `sop_classes` None means every Abstract Syntax; `transfer_syntaxes` are in order of preference.

    With `any_storage`, classes that PS3.6 doesn't list are accepted, too, if the requestor says that they are of the
    Storage Service Class (PS3.7 §D.3.3.6). Verification is not listed, as it is always accepted.
    """

    sop_classes: tuple[str, ...] | None
    transfer_syntaxes: tuple[str, ...]
    any_storage: bool


def resolve(sop_classes: Iterable[str], transfer_syntaxes: Iterable[str]) -> SupportedContexts:
    """Resolve the names in `[contexts]` to UIDs without duplicates, in order. Raises UnacceptableError."""
    classes: list[str] = []
    everything = any_storage = False
    for text in sop_classes:
        any_storage = any_storage or text == "all-storage"
        found = sop_class_uids(text)
        everything = everything or found is None
        classes.extend(found or ())
    syntaxes = [uid for text in transfer_syntaxes for uid in transfer_syntax_uids(text)]
    accepted = None if everything else tuple(dict.fromkeys(classes))
    return SupportedContexts(accepted, tuple(dict.fromkeys(syntaxes)), any_storage)


def sop_class_uids(text: str) -> tuple[str, ...] | None:
    """Return the SOP Class UIDs that one name stands for; None for "any". Raises UnacceptableError."""
    if text == "any":
        return None
    if text == "all-storage":
        return _all_storage()
    uid = _uid(text, "SOP Class", SOP_CLASS_GROUPS, _keywords("SOP Class"))
    _must_be(uid, text, "SOP Class")
    if not _is_storage(uid):
        raise UnacceptableError(
            f"{shown(text)} is not a Storage SOP Class",
            "nothing: Verification is always accepted" if uid == VERIFICATION_SOP_CLASS else "Storage SOP Classes only",
        )
    return (uid,)


def transfer_syntax_uids(text: str) -> tuple[str, ...]:
    """Return the Transfer Syntax UIDs that one name stands for, in order of preference. Raises UnacceptableError."""
    if text == "all":
        from pynetdicom import ALL_TRANSFER_SYNTAXES

        return tuple(dict.fromkeys((*_UNCOMPRESSED, *(str(uid) for uid in ALL_TRANSFER_SYNTAXES))))
    if text == "uncompressed":
        return _UNCOMPRESSED
    if text == "lossless":
        return _UNCOMPRESSED + _REVERSIBLE
    uid = _uid(text, "Transfer Syntax", TRANSFER_SYNTAX_GROUPS, _keywords("Transfer Syntax"))
    _must_be(uid, text, "Transfer Syntax")
    return (uid,)


def sop_class(value: object) -> str:
    """Check one name in `sop_classes` and return it. Raises UnacceptableError."""
    return _checked(value, sop_class_uids, "a SOP Class")


def transfer_syntax(value: object) -> str:
    """Check one name in `transfer_syntaxes` and return it. Raises UnacceptableError."""
    return _checked(value, transfer_syntax_uids, "a Transfer Syntax")


def _checked(value: object, resolver: Callable[[str], tuple[str, ...] | None], kind: str) -> str:
    if not isinstance(value, str):
        raise UnacceptableError(f"{shown(value)} is not {kind}", "a group, keyword or UID as text")
    resolver(value)
    return value


def _keywords(kind: str) -> dict[str, str]:
    """Map keywords to UIDs. pynetdicom's names supplement pydicom's dictionary where that has no keyword yet."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]  # PS3.6 Annex A, imported there

    found = {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[1] == kind and entry[4]}
    if kind == "SOP Class":
        from pynetdicom import sop_class as known
        from pynetdicom.sop_class import SOPClass

        for keyword, uid in vars(known).items():
            if isinstance(uid, SOPClass):
                found.setdefault(keyword, str(uid))
    return found


def _uid(text: str, kind: str, groups: tuple[str, ...], keywords: dict[str, str]) -> str:
    if text in keywords:
        return keywords[text]
    if _UID.fullmatch(text):
        if len(text) > MAX_UID_LENGTH:
            raise UnacceptableError(f"{shown(text)} is too long for a UID", f"at most {MAX_UID_LENGTH} characters")
        return text
    known = {candidate.lower(): candidate for candidate in (*groups, *keywords)}
    close = difflib.get_close_matches(text.lower()[:100], known, n=1, cutoff=0.75)
    expected = f'did you mean "{known[close[0]]}"?' if close else f"one of {', '.join(groups)}, a keyword or a UID"
    raise UnacceptableError(f"{shown(text)} is not a known {kind}", expected)


def _must_be(uid: str, text: str, kind: str) -> None:
    """Reject a UID that the standard registers as something else. An unregistered one may be private or newer."""
    from pydicom.uid import UID

    known = UID(uid)
    if known.type and known.type != kind:
        raise UnacceptableError(f"{shown(text)} is {known.name}, a {known.type}", f"a {kind}")


def _all_storage() -> tuple[str, ...]:
    """Return all that pynetdicom serves as storage, then what only PS3.6 lists: retired classes, DICOS, DICONDE."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]
    from pynetdicom.presentation import AllStoragePresentationContexts

    served = (str(context.abstract_syntax) for context in AllStoragePresentationContexts)
    registered = (
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and uid not in _STORAGE_IN_NAME_ONLY
    )
    return tuple(dict.fromkeys((*served, *registered)))


def _is_storage(uid: str) -> bool:
    from pynetdicom.service_class import NonPatientObjectStorageServiceClass, ServiceClass, StorageServiceClass
    from pynetdicom.sop_class import uid_to_service_class

    # ServiceClass itself is the answer for a UID that pynetdicom doesn't know: a retired, newer or private one
    return uid_to_service_class(uid) in {StorageServiceClass, NonPatientObjectStorageServiceClass, ServiceClass}
