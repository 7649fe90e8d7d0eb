"""Whatever an AE Title, a peer's name or an element holds, it becomes one safe name, and different ones differ."""

import re
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from dicomd.ae_titles import legal_ae_title, received_ae_title
from dicomd.layouts import PLACEHOLDERS
from dicomd.store.layout import Layout
from dicomd.store.path_values import (
    PathValues,
    ae_title_value,
    may_be_a_title,
    may_be_of_title,
    modality_value,
    peer_value,
    study_date_value,
)

LAYOUT = Layout(
    "{CalledAETitle}/{StudyDate}_{Peer}@{SeriesInstanceUID}_{CallingAETitle}/{Modality}_{SOPInstanceUID}.dcm"
)

fields = st.one_of(
    st.binary(max_size=16),
    st.text("ab./%-_ \\\0none", max_size=16).map(str.encode),
    st.sampled_from([b"none", b"unfiled", b"..", b".", b"%2E.", b"%6Eone", b"unknown"]),
)
titles = fields.map(lambda field: received_ae_title(field.ljust(16)))
names = st.one_of(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True), st.sampled_from(["none", ""]))
uids = st.from_regex(r"[1-9][0-9]{0,3}(\.[0-9]{1,2}){0,2}", fullmatch=True)
elements = st.one_of(
    st.binary(max_size=90),
    st.text("CTMR_ 0", max_size=17).map(str.encode),
    st.dates().map(lambda date: date.strftime("%Y%m%d").encode()),
)


def assert_safe(value: str, placeholder: str) -> None:
    assert re.fullmatch(r"(?!\.)(?!-)[A-Za-z0-9_.%-]+", value)
    assert PurePosixPath("/root", value).parts == ("/", "root", value)
    assert len(value) <= PLACEHOLDERS[placeholder].longest
    assert PLACEHOLDERS[placeholder].characters.issuperset(value)


@given(titles, titles)
def test_an_ae_title_becomes_one_safe_name_and_two_become_two(one: str, other: str) -> None:
    assert_safe(ae_title_value(one), "CalledAETitle")
    assert (ae_title_value(one) == ae_title_value(other)) == (one == other)
    assert (ae_title_value(one) == "none") == (one == "")
    assert may_be_a_title(ae_title_value(one))
    assert may_be_of_title(ae_title_value(one), legal_ae_title(one))
    assert may_be_of_title(ae_title_value(one), legal_ae_title(other)) == (legal_ae_title(one) == legal_ae_title(other))


@given(names, names)
def test_so_does_a_peer(one: str, other: str) -> None:
    assert_safe(peer_value(one), "Peer")
    assert one == "unknown" or (peer_value(one) == "unknown") == (one == "")
    assert "unknown" in (one, other) or (peer_value(one) == peer_value(other)) == (one == other)


@given(elements, elements)
def test_an_element_becomes_one_safe_name(one: bytes, other: bytes) -> None:
    assert_safe(modality_value(one), "Modality")
    assert_safe(study_date_value(one), "StudyDate")
    if modality_value(one) == modality_value(other) != "none":
        assert one.strip(b"\0 ") == other.strip(b"\0 ")
    if study_date_value(one) != "none":
        assert one.strip(b"\0 ").replace(b".", b"").decode() == study_date_value(one)


values = st.builds(
    PathValues,
    titles.map(ae_title_value),
    titles.map(ae_title_value),
    names.map(peer_value),
    elements.map(modality_value),
    elements.map(study_date_value),
    st.just(""),
)


@given(values, values, uids, uids, st.integers(0, 2))
def test_a_path_tells_every_value_apart(one: PathValues, other: PathValues, series: str, sop: str, number: int) -> None:
    place = LAYOUT.place("", series, sop, one)
    path = place.path.removesuffix(".dcm") + (f"_{number}" if number else "") + ".dcm"
    assert len(PurePosixPath("/root", path).parts) == 5
    assert LAYOUT.values_in(path) == {
        "CalledAETitle": one.called_ae_title,
        "StudyDate": one.study_date,
        "Peer": one.peer,
        "SeriesInstanceUID": series,
        "CallingAETitle": one.calling_ae_title,
        "Modality": one.modality,
        "SOPInstanceUID": sop,
    }
    assert (LAYOUT.place("", series, sop, other) == place) == (other == one)
