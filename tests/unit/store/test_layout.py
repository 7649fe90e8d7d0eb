"""Layout templates and the UIDs that may become part of a path."""

import pytest
from pydicom.datadict import dictionary_keyword, dictionary_VR

from dicomd.layouts import PLACEHOLDERS, LayoutError
from dicomd.store.layout import ELEMENTS, OPTIONAL_ELEMENTS, VALUES, Layout
from dicomd.store.path_values import PathValues
from dicomd.tags import MODALITY, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, STUDY_DATE, STUDY_INSTANCE_UID
from dicomd.uids import uid_from_value

DEFAULT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"


def test_the_default_layout_places_by_study_series_and_instance() -> None:
    layout = Layout(DEFAULT)
    assert layout.elements == {STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID}
    assert layout.place("1.2", "3.4", "5.6") == ("1.2/3.4", "5.6.dcm")


@pytest.mark.parametrize(
    ("template", "elements", "place"),
    [
        ("{SOPInstanceUID}.dcm", {SOP_INSTANCE_UID}, ("", "5.6.dcm")),
        ("in/{SOPInstanceUID}.dcm", {SOP_INSTANCE_UID}, ("in", "5.6.dcm")),
        ("{SOPInstanceUID}/object.dcm", {SOP_INSTANCE_UID}, ("5.6", "object.dcm")),
        (
            "s{StudyInstanceUID}/{SeriesInstanceUID}_{SOPInstanceUID}.dcm",
            {STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID},
            ("s1.2", "3.4_5.6.dcm"),
        ),
    ],
)
def test_a_layout_needs_the_elements_it_names(template: str, elements: set[int], place: tuple[str, str]) -> None:
    layout = Layout(template)
    assert layout.elements == elements
    assert layout.place("1.2", "3.4", "5.6") == place


@pytest.mark.parametrize(
    ("template", "optional", "place"),
    [
        ("{CalledAETitle}/{SOPInstanceUID}.dcm", set(), ("CALLED", "5.6.dcm")),
        ("{CallingAETitle}/{Peer}/{SOPInstanceUID}.dcm", set(), ("CALLING/ct1", "5.6.dcm")),
        ("{Modality}_{SOPInstanceUID}.dcm", {MODALITY}, ("", "CT_5.6.dcm")),
        ("{StudyDate}/{ReceivedDate}/{SOPInstanceUID}.dcm", {STUDY_DATE}, ("20240229/20261129", "5.6.dcm")),
    ],
)
def test_a_layout_may_have_other_values(template: str, optional: set[int], place: tuple[str, str]) -> None:
    layout = Layout(template)
    values = PathValues("CALLED", "CALLING", "ct1", "CT", "20240229", "20261129")
    assert layout.has_values
    assert layout.has_date == ("{ReceivedDate}" in template)
    assert layout.elements == {SOP_INSTANCE_UID}
    assert layout.optional_elements == optional
    assert layout.place("", "", "5.6", values) == place


def test_the_values_in_a_path_are_told_apart() -> None:
    layout = Layout("{CalledAETitle}@{StudyDate}_{Peer}/{CalledAETitle}/{Modality}_{SOPInstanceUID}.dcm")
    found = {"CalledAETitle": "A_1", "StudyDate": "none", "Peer": "x_y", "Modality": "CT", "SOPInstanceUID": "1.2"}
    assert layout.values_in("A_1@none_x_y/A_1/CT_1.2.dcm") == found
    assert layout.values_in("A_1@none_x_y/A_1/CT_1.2_7.dcm") == found
    for path in ("A@none_x/B/CT_1.2.dcm", "A@none_x/A/CT_1.2_0.dcm", "A/A/CT_1.2.dcm", "A@none_x/A/CT_1.2.dcm/x"):
        assert layout.values_in(path) == {}


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{SOPInstanceUID}",
        "{SOPInstanceUID}.DCM",
        "{StudyInstanceUID}.dcm",
        "/{SOPInstanceUID}.dcm",
        "a//{SOPInstanceUID}.dcm",
        "../{SOPInstanceUID}.dcm",
        "a/../{SOPInstanceUID}.dcm",
        "./{SOPInstanceUID}.dcm",
        ".dicomd/tmp/{SOPInstanceUID}.dcm",
        ".hidden/{SOPInstanceUID}.dcm",
        "{PatientName}/{SOPInstanceUID}.dcm",
        "{SOPInstanceUID!r}.dcm",
        "{SOPInstanceUID:>200}.dcm{SOPInstanceUID}.dcm",
        "{SOPInstanceUID.__class__}/{SOPInstanceUID}.dcm",
        "{0}/{SOPInstanceUID}.dcm",
        "{}/{SOPInstanceUID}.dcm",
        "{{/{SOPInstanceUID}.dcm",
        "}/{SOPInstanceUID}.dcm",
        "a\0b/{SOPInstanceUID}.dcm",
        "a\nb/{SOPInstanceUID}.dcm",
        "a\\b/{SOPInstanceUID}.dcm",
        "{StudyInstanceUID}{SOPInstanceUID}.dcm",
        "{StudyInstanceUID}.1.{SOPInstanceUID}.dcm",
        "{StudyInstanceUID}_{SeriesInstanceUID}_{SOPInstanceUID}_" + "x" * 60 + ".dcm",
    ],
)
def test_what_is_no_layout_is_an_error(template: str) -> None:
    with pytest.raises(LayoutError):
        Layout(template)


@pytest.mark.parametrize(
    ("value", "uid"),
    [
        (b"1.2.840.10008", "1.2.840.10008"),
        (b"1.2\0", "1.2"),
        (b"1.2 ", "1.2"),
        (b"1.2 \0\0 ", "1.2"),
        (b"1", "1"),
        (b"1.02.003", "1.02.003"),
        (b"1." + b"2" * 62, "1." + "2" * 62),
    ],
)
def test_uids_lose_their_padding_and_nothing_else(value: bytes, uid: str) -> None:
    assert uid_from_value(value) == uid


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        b" ",
        b".",
        b"..",
        b"../1",
        b"1/2",
        b".1",
        b"1.",
        b"1..2",
        b"1.2\\3.4",
        b"1.2\0.3",
        b"1.2 3",
        b" 1.2",
        b"\x001.2",
        b"1.2\n",
        b"1.a",
        b"1.-2",
        b"1.+2",
        b"1_2",
        b"1.\xc2\xb2",
        b"1.\xd9\xa3",
        b"1." + b"2" * 63,
    ],
)
def test_what_is_no_uid_is_none(value: bytes) -> None:
    assert uid_from_value(value) is None


def test_a_path_names_no_patient() -> None:
    """Log lines contain paths of the store that fail (`dicomd.telemetry.fields`), so paths must reveal no patient."""
    for tag in ELEMENTS.values():
        assert dictionary_VR(tag) == "UI"
    assert {dictionary_keyword(tag) for tag in OPTIONAL_ELEMENTS.values()} == {"Modality", "StudyDate"}


def test_every_placeholder_stands_for_something() -> None:
    assert list(PLACEHOLDERS) == [*ELEMENTS, *VALUES]
    assert OPTIONAL_ELEMENTS.keys() < VALUES.keys()
