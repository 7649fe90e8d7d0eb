"""Whatever is sent as a UID, the resulting path is below the root and in the layout's own form."""

import re
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from dicomd.store.layout import Layout
from dicomd.uids import uid_from_value

LAYOUT = Layout("{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm")
values = st.one_of(
    st.binary(max_size=70),
    st.text("0123456789./\\ \0-", max_size=70).map(str.encode),
    st.from_regex(r"[0-9]+(\.[0-9]+)*", fullmatch=True).map(str.encode),
)


@given(values)
def test_a_uid_is_accepted_exactly_when_it_has_the_form_of_one(value: bytes) -> None:
    stripped = value.rstrip(b"\0 ")
    is_uid = len(stripped) <= 64 and re.fullmatch(rb"[0-9]+(\.[0-9]+)*", stripped) is not None
    assert uid_from_value(value) == (stripped.decode() if is_uid else None)


@given(values, values, values)
def test_a_path_made_of_accepted_values_has_three_plain_parts(study: bytes, series: bytes, instance: bytes) -> None:
    uids = [uid_from_value(value) for value in (study, series, instance)]
    if None in uids:
        return
    place = LAYOUT.place(*(uid or "" for uid in uids))
    path = PurePosixPath("/root", place.directory, place.name)
    assert path.parts == ("/", "root", uids[0], uids[1], f"{uids[2]}.dcm")
    assert all(len(part) <= 68 and not part.startswith(".") for part in path.parts)
