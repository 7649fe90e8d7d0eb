"""The names and groups in [contexts] resolve to UIDs."""

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import AllStoragePresentationContexts

from dicomd.config.contexts import TRANSFER_SYNTAX_GROUPS, SupportedContexts, resolve, sop_class, transfer_syntax
from dicomd.config.problems import UnacceptableError
from dicomd.config.schema import Contexts


def test_default_is_every_storage_sop_class_in_every_transfer_syntax() -> None:
    supported = Contexts().resolved()
    assert supported.sop_classes is not None
    assert {str(c.abstract_syntax) for c in AllStoragePresentationContexts} < set(supported.sop_classes)
    assert set(ALL_TRANSFER_SYNTAXES) < set(supported.transfer_syntaxes)
    assert supported.transfer_syntaxes[0] == ExplicitVRLittleEndian


def test_all_storage_has_the_retired_ones_of_old_devices_and_nothing_else_that_is_named_so() -> None:
    found = resolve(["all-storage"], []).sop_classes or ()
    for uid in ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.5", "1.2.840.10008.5.1.4.38.1"):
        assert uid in found
    for uid in ("1.2.840.10008.1.20.1", "1.2.840.10008.1.3.10", "1.2.840.10008.1.1"):
        assert uid not in found
    assert len(set(found)) == len(found)


def test_any_takes_every_abstract_syntax() -> None:
    assert resolve(["any"], ["all"]).sop_classes is None
    assert resolve(["CTImageStorage", "any"], ["all"]).sop_classes is None


def test_keywords_and_uids_keep_their_order_and_appear_once() -> None:
    private = "1.3.6.1.4.1.99999.1"
    assert resolve(
        ["1.2.840.10008.5.1.4.1.1.4", "CTImageStorage", private, CTImageStorage],
        ["JPEG2000Lossless", "1.2.840.10008.1.2", "uncompressed"],
    ) == SupportedContexts(
        sop_classes=("1.2.840.10008.5.1.4.1.1.4", CTImageStorage, private),
        transfer_syntaxes=(
            JPEG2000Lossless,
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            "1.2.840.10008.1.2.2",
            "1.2.840.10008.1.2.1.99",
        ),
        any_storage=False,
    )


def test_lossless_is_a_part_of_all_without_any_lossy_syntax() -> None:
    lossless = resolve(["any"], ["lossless"]).transfer_syntaxes
    assert set(lossless) < set(resolve(["any"], ["all"]).transfer_syntaxes)
    assert not set(lossless) & {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}


def test_encapsulated_pixel_data_is_not_among_the_uncompressed_even_if_it_is_not_compressed() -> None:
    encapsulated = "1.2.840.10008.1.2.1.98"
    groups = {group: resolve(["any"], [group]).transfer_syntaxes for group in TRANSFER_SYNTAX_GROUPS}
    assert {group for group, syntaxes in groups.items() if encapsulated in syntaxes} == {"all", "lossless"}


@pytest.mark.parametrize(
    "text",
    [
        "UltrasoundImageStorageRetired",
        "HangingProtocolStorage",
        "HeightMapSegmentationStorage",
        "UltrasoundWaveformStorage",
        "RoboticArmRadiationRecordStorage",  # pynetdicom's spelling of RoboticRadiationRecordStorage
    ],
)
def test_retired_non_patient_and_new_storage_sop_classes_have_keywords(text: str) -> None:
    assert sop_class(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CTImageStorag", '"CTImageStorage"'),
        ("ctimagestorage", '"CTImageStorage"'),
        ("all_storage", '"all-storage"'),
        ("Verification", "always accepted"),
        ("PatientRootQueryRetrieveInformationModelFind", "Storage SOP Classes only"),
        ("1.2.840.10008.1.2", "a SOP Class"),
        ("1." * 40 + "1", "64 characters"),
        ("", "a keyword or a UID"),
        (7, "as text"),
    ],
)
def test_what_is_no_storage_sop_class_is_refused(text: object, expected: str) -> None:
    with pytest.raises(UnacceptableError) as caught:
        sop_class(text)
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("JPEG2000Lossles", '"JPEG2000Lossless"'),
        (CTImageStorage, "a Transfer Syntax"),
        ("1.2.840.10008.5.1.4.1.1.601.3", "a Transfer Syntax"),  # pydicom doesn't know it
        ("ALL", '"all"'),
        (None, "text"),
    ],
)
def test_what_is_no_transfer_syntax_is_refused(text: object, expected: str) -> None:
    with pytest.raises(UnacceptableError) as caught:
        transfer_syntax(text)
    assert expected in caught.value.expected
