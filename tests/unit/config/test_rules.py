"""AE Titles, names, paths and layouts."""

from pathlib import Path

import pytest

from dicomd.config import rules
from dicomd.config.problems import UnacceptableError


@pytest.mark.parametrize("title", ["A", "CT 1", "ABCDEFGHIJKLMNOP", "a!~"])
def test_ae_title_of_the_standard_is_accepted(title: str) -> None:
    assert rules.ae_title(title) == title


def test_padding_of_an_ae_title_means_nothing() -> None:
    assert rules.ae_title("  CT1   ") == "CT1"
    assert rules.ae_title("                    CT1") == "CT1"


@pytest.mark.parametrize(
    "title", ["", "   ", "ABCDEFGHIJKLMNOPQ", "A\\B", "A\nB", "A\x7f", "KRANKENHAUS\xc4", "A\0", 7, None]
)
def test_what_is_no_ae_title_is_refused(title: object) -> None:
    with pytest.raises(UnacceptableError):
        rules.ae_title(title)


@pytest.mark.parametrize(
    "layout",
    [
        "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm",
        "{SOPInstanceUID}.dcm",
        "in/{StudyInstanceUID}_{SeriesInstanceUID}/{SOPInstanceUID}.dcm",
        "{SOPInstanceUID}/instance.dcm",
        "{CalledAETitle}/{CallingAETitle}/{SOPInstanceUID}.dcm",
        "{Peer}/{ReceivedDate}/{Modality}_{SOPInstanceUID}.dcm",
        "{StudyDate}_{StudyInstanceUID}_{CalledAETitle}/{CallingAETitle}@{SOPInstanceUID}-x.dcm",
        "{SOPInstanceUID}/{ReceivedDate}.dcm",
        "u{StudyDate}/{SOPInstanceUID}.dcm",
        "{CalledAETitle}/unfiled/{SOPInstanceUID}.dcm",
    ],
)
def test_layout_is_accepted(layout: str) -> None:
    assert rules.layout(layout) == layout


@pytest.mark.parametrize(
    ("layout", "what"),
    [
        ("{StudyInstanceUID}/{SeriesInstanceUID}.dcm", "lacks {SOPInstanceUID}"),
        ("{SOPInstanceUID}", "does not end in .dcm"),
        ("/{SOPInstanceUID}.dcm", "not a relative path"),
        ("../{SOPInstanceUID}.dcm", "starts with a dot"),
        ("a/../{SOPInstanceUID}.dcm", "starts with a dot"),
        (".dicomd/{SOPInstanceUID}.dcm", "starts with a dot"),
        ("unfiled/{SOPInstanceUID}.dcm", "may begin with unfiled/"),
        ("unfiled/{StudyInstanceUID}/{SOPInstanceUID}.dcm", "may begin with unfiled/"),
        ("u{CallingAETitle}/{SOPInstanceUID}.dcm", "may begin with unfiled/"),
        ("{Peer}d/{SOPInstanceUID}.dcm", "may begin with unfiled/"),
        ("a//{SOPInstanceUID}.dcm", "empty part"),
        ("{PatientName}/{SOPInstanceUID}.dcm", "is not a placeholder"),
        ("{}/{SOPInstanceUID}.dcm", "is not a placeholder"),
        ("{SOPInstanceUID.dcm", "which a layout must not"),
        ("SOPInstanceUID}.dcm", "which a layout must not"),
        ("a\0/{SOPInstanceUID}.dcm", "which a layout must not"),
        ("{StudyInstanceUID}{SOPInstanceUID}.dcm", "run into each other"),
        ("{StudyInstanceUID}.{SOPInstanceUID}.dcm", "run into each other"),
        ("{StudyInstanceUID}.1.{SOPInstanceUID}.dcm", "run into each other"),
        ("x" * 200 + "{SOPInstanceUID}.dcm", "too long"),
        ("{CalledAETitle}@{CallingAETitle}@{Peer}@{StudyInstanceUID}@xx/{SOPInstanceUID}.dcm", "too long"),
        ("{calledAETitle}/{SOPInstanceUID}.dcm", "is not a placeholder"),
        ("{CalledAETitle}/{StudyInstanceUID}.dcm", "lacks {SOPInstanceUID}"),
        ("{CalledAETitle}{CallingAETitle}/{SOPInstanceUID}.dcm", "run into each other"),
        ("{CalledAETitle}_{SOPInstanceUID}.dcm", "run into each other"),
        ("{CalledAETitle}%{SOPInstanceUID}.dcm", "run into each other"),
        ("{Peer}.{SOPInstanceUID}.dcm", "run into each other"),
        ("{StudyDate}{Modality}/{SOPInstanceUID}.dcm", "run into each other"),
        ("{ReceivedDate}1{Modality}/{SOPInstanceUID}.dcm", "run into each other"),
        ("{SOPInstanceUID}@{CalledAETitle}.dcm", "the number of another Data Set"),
        ("{SOPInstanceUID}/{Peer}_x.dcm", "the number of another Data Set"),
        ("", "does not end in .dcm"),
        (5, "is not a layout"),
    ],
)
def test_layout_that_could_escape_or_collide_is_refused(layout: object, what: str) -> None:
    with pytest.raises(UnacceptableError) as caught:
        rules.layout(layout)
    assert what in caught.value.what
    assert caught.value.expected


def test_relative_path_starts_at_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert rules.path("./var/store") == tmp_path / "var/store"
    assert rules.path("/var/store") == Path("/var/store")


@pytest.mark.parametrize("path", ["", "  ", "~/store", "a\0b", 3, None])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(UnacceptableError):
        rules.path(path)


def test_names_that_mean_something_else_are_refused() -> None:
    with pytest.raises(UnacceptableError, match="metrics"):
        rules.listener_name("metrics")
    with pytest.raises(UnacceptableError, match="unknown"):
        rules.peer_name("unknown")
    for name in ("", "-a", "a b", "a" * 65, "ä", 1):
        with pytest.raises(UnacceptableError):
            rules.peer_name(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dicomd.example.org", "dicomd.example.org"),
        ("DICOMD.Example.org.", "dicomd.example.org"),
        ("pacs", "pacs"),
        ("xn--rntgen-wxa.example", "xn--rntgen-wxa.example"),
    ],
)
def test_name_of_a_host_is_as_a_browser_sends_it(written: str, meant: str) -> None:
    assert rules.host_name(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        ".",
        "a..b",
        "a:80",
        "http://a",
        "*.example.org",
        "r\u00f6ntgen.example",
        "a b",
        "[::1]",
        "a" * 64,
        "a." * 200,
        7,
    ],
)
def test_what_is_no_name_of_a_host_is_refused(written: object) -> None:
    with pytest.raises(UnacceptableError):
        rules.host_name(written)
