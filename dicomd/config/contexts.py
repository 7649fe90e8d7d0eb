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
from dicomd.config.registry import SOP_CLASS, TRANSFER_SYNTAX, of_type, registered
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
# PS3.5 §A.4.11: Pixel Data isn't compressed, but encapsulated like compressed Pixel Data, which not every reader of
# uncompressed instances can read. So it isn't among these.
_ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
_REVERSIBLE = (
    _ENCAPSULATED_UNCOMPRESSED,
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
    uid = _uid(text, SOP_CLASS, SOP_CLASS_GROUPS)
    if not _is_storage(uid):
        raise UnacceptableError(
            f"{shown(text)} is not a Storage SOP Class",
            "nothing: Verification is always accepted" if uid == VERIFICATION_SOP_CLASS else "Storage SOP Classes only",
        )
    return (uid,)


def transfer_syntax_uids(text: str) -> tuple[str, ...]:
    """Return the Transfer Syntax UIDs that one name stands for, in order of preference. Raises UnacceptableError."""
    if text == "all":
        in_use = (uid for uid, entry in of_type(TRANSFER_SYNTAX).items() if not entry.retired)
        return tuple(dict.fromkeys((*_UNCOMPRESSED, _ENCAPSULATED_UNCOMPRESSED, *in_use)))
    if text == "uncompressed":
        return _UNCOMPRESSED
    if text == "lossless":
        return _UNCOMPRESSED + _REVERSIBLE
    return (_uid(text, TRANSFER_SYNTAX, TRANSFER_SYNTAX_GROUPS),)


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


def _uid(text: str, kind: str, groups: tuple[str, ...]) -> str:
    """Return the UID that a keyword or UID stands for. Raises UnacceptableError, also if it is one of another type.

    An unregistered UID may be private or newer.
    """
    keywords = _keywords(kind)
    if text in keywords:
        return keywords[text]
    if _UID.fullmatch(text):
        if len(text) > MAX_UID_LENGTH:
            raise UnacceptableError(f"{shown(text)} is too long for a UID", f"at most {MAX_UID_LENGTH} characters")
        known = registered().get(text)
        if known is not None and known.type != kind:
            raise UnacceptableError(f"{shown(text)} is {known.name}, a {known.type}", f"a {kind}")
        return text
    names = {candidate.lower(): candidate for candidate in (*groups, *keywords)}
    close = difflib.get_close_matches(text.lower()[:100], names, n=1, cutoff=0.75)
    expected = f'did you mean "{names[close[0]]}"?' if close else f"one of {', '.join(groups)}, a keyword or a UID"
    raise UnacceptableError(f"{shown(text)} is not a known {kind}", expected)


def _keywords(kind: str) -> dict[str, str]:
    """Map keywords to UIDs. Where pynetdicom spells a keyword otherwise than the standard, either is accepted."""
    found = {entry.keyword: uid for uid, entry in of_type(kind).items() if entry.keyword}
    if kind == SOP_CLASS:
        from pynetdicom import sop_class as known
        from pynetdicom.sop_class import SOPClass

        for keyword, uid in vars(known).items():
            if isinstance(uid, SOPClass):
                found.setdefault(keyword, str(uid))
    return found


def _all_storage() -> tuple[str, ...]:
    """Return every Storage SOP Class that PS3.6 registers, including retired ones and those of DICOS and DICONDE."""
    return tuple(
        uid for uid, entry in of_type(SOP_CLASS).items() if "Storage" in entry.name and uid not in _STORAGE_IN_NAME_ONLY
    )


def _is_storage(uid: str) -> bool:
    from pynetdicom.service_class import NonPatientObjectStorageServiceClass, ServiceClass, StorageServiceClass
    from pynetdicom.sop_class import uid_to_service_class

    # ServiceClass itself is the answer for a UID that pynetdicom doesn't know: a retired, newer or private one
    return uid_to_service_class(uid) in {StorageServiceClass, NonPatientObjectStorageServiceClass, ServiceClass}
