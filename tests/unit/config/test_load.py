"""Reading a configuration file: defaults, and readable messages for all errors at once."""

import ipaddress
import tomllib
from pathlib import Path

import pytest

from dicomd.config import (
    Address,
    Config,
    ConfigError,
    examine,
    load_config,
    to_toml,
    unreloadable_changes,
)
from dicomd.config.keys import tables
from tests.support.configuration import parse_config

CONTRACT = """
[dicomd]
ae_titles = []
workers = 0
drain_timeout = "60s"
[[listen]]
name = "dicom"
address = "0.0.0.0:11112"
tls = true
proxy_protocol = ["10.0.0.0/8"]
[storage]
root = "/var/lib/dicomd/store"
layout = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"
unfiled = "refuse"
durability = "fsync"
duplicates = "keep-both"
checksums = true
reserve_free = "1GiB"
max_object_size = "8GiB"
[contexts]
sop_classes = ["all-storage"]
transfer_syntaxes = ["all"]
[limits]
connections = 1024
associations = 256
associations_per_peer = 64
max_pdu = "256KiB"
association_idle = "60s"
request_timeout = "10s"
minimum_rate = "1KiB/s"
asynchronous_operations = 8
[[peers]]
name = "ct1"
ae_titles = ["CT1"]
addresses = ["10.1.2.0/24"]
certificate_names = ["ct1.example.org"]
allow = ["echo", "store"]
associations = 8
[access]
mode = "enforce"
[tls]
certificate = "/etc/dicomd/tls/server.pem"
key = "/etc/dicomd/tls/server.key"
client_ca = "/etc/dicomd/tls/clients.pem"
client_certificate = "required"
crl = "/etc/dicomd/tls/clients.crl"
profile = "bcp195"
[http]
address = "127.0.0.1:11113"
hosts = []
[log]
format = "auto"
level = "info"
instances = true
[audit]
spool = ""
syslog = ""
"""


def problems_of(text: str) -> dict[str, str]:
    """Every problem in the text: key → message."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.toml")
    return {problem.key: f"{problem.what} ({problem.expected})" for problem in caught.value.problems}


def test_the_whole_published_schema_is_accepted() -> None:
    config = parse_config(CONTRACT)
    assert config.peers[0].addresses == (ipaddress.IPv4Network("10.1.2.0/24"),)
    assert config.listen[0].address == Address("0.0.0.0", 11112)
    assert config.limits.minimum_rate == 1024.0
    assert config.storage.reserve_free == 1024**3
    assert config.audit.spool is None


def test_the_published_values_are_the_defaults() -> None:
    written = tomllib.loads(CONTRACT)
    examples = {"listen.tls", "listen.proxy_protocol", "peers.ae_titles", "peers.addresses", "peers.certificate_names"}
    for table in tables():
        entry = written[table.name][0] if table.repeated else written[table.name]
        for described in table.keys:
            if described.default is not None and described.path not in examples:
                assert tomllib.loads(f"x = {described.default}")["x"] == entry[described.name], described.path


def test_an_empty_file_is_the_default_configuration() -> None:
    config = parse_config("")
    assert config == Config()
    assert [(listener.name, str(listener.address)) for listener in config.listen] == [("dicom", "0.0.0.0:11112")]


def test_all_errors_are_told_at_once() -> None:
    problems = problems_of("""
        [dicomd]
        ae_titles = ["TOO_LONG_AE_TITLE_X", "OK", "A\\\\B"]
        worker = 3
        [[listen]]
        name = "dicom"
        address = "localhost:11112"
        [storage]
        max_pdu = "1KiB"
        durability = "yes"
        [limits]
        max_pdu = "1KiB"
        associations = "7"
        request_timeout = 0
        [[peers]]
        addresses = ["10.1.2.3/24"]
        [contexts]
        sop_classes = ["CTImageStorag"]
        transfer_syntaxes = []
        [logs]
        [access]
        mode = 3
    """)
    assert problems == {
        "dicomd.ae_titles[0]": '"TOO_LONG_AE_TITLE_X" is longer than an AE Title may be (16 characters, not 19)',
        "dicomd.ae_titles[2]": '"A\\\\B" contains "\\\\", which an AE Title must not '
        "(ASCII without backslash and control characters)",
        "dicomd.worker": 'unknown key (did you mean "workers"?)',
        "listen[0].address": 'names are not resolved ("127.0.0.1:11112" or "[::1]:11112")',
        "storage.max_pdu": "unknown key (it belongs in [limits])",
        "storage.durability": '"yes" is not known ("fsync" or "none")',
        "limits.max_pdu": '"1KiB" is out of range (at least 4KiB)',
        "limits.associations": '"7" is text (integer, such as 256)',
        "limits.request_timeout": "0 is out of range (more than 0s)",
        "peers[0].name": 'is missing (name, such as "ct1")',
        "peers[0].addresses[0]": '"10.1.2.3/24" has host bits set ("10.1.2.0/24", or the address alone)',
        "contexts.sop_classes[0]": '"CTImageStorag" is not a known SOP Class (did you mean "CTImageStorage"?)',
        "contexts.transfer_syntaxes": 'is empty (the default is ["all"])',
        "logs": 'unknown table (did you mean "log"?)',
        "access.mode": '3 is not known ("enforce" or "audit")',
    }


def test_a_problem_names_file_key_wrong_and_right() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config('[limits]\nmax_pdu = "1KiB"', "/etc/dicomd/dicomd.toml")
    assert str(caught.value) == '/etc/dicomd/dicomd.toml: limits.max_pdu: "1KiB" is out of range (at least 4KiB)'


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("listen = 5", "listen", "an integer instead of a table ([[listen]] and its keys below it)"),
        ("listen = []", "listen", "is empty (at least one [[listen]], or leave it out for the default)"),
        ("[listen]\nname = 'a'", "listen", "a single table where several may be ([[listen]] and its keys below it)"),
        ("[[storage]]", "storage", "a list instead of a table ([storage] and its keys below it)"),
        ("peers = ['ct1']", "peers[0]", "text instead of a table ([[peers]] and its keys below it)"),
        ("[storage]\nchecksums = 1", "storage.checksums", "1 is an integer (true | false, such as true)"),
        ("[dicomd]\nworkers = -1", "dicomd.workers", "-1 is out of range (at least 0)"),
        ("[dicomd]\nworkers = 1.5", "dicomd.workers", "1.5 is a float (integer, such as 0)"),
        ("[dicomd]\nae_titles = 'A'", "dicomd.ae_titles", '"A" is text (list of AE Titles, such as [])'),
        ("[log]\nlevel = 1979-05-27", "log.level", "is not known"),
        ("'a b' = 1", '"a b"', "unknown key"),
    ],
)
def test_wrong_shapes_are_told_in_words(text: str, key: str, what: str) -> None:
    assert what in problems_of(text)[key]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[dicomd]\nworkers = = 1", "line 2, column 11"),
        ("[dicomd", "line 1, column 8"),
        ("a = 1\na = 2", "line 2, column 6"),
        ("[limits]\nmax_pdu =", "line 2, column 10"),
    ],
)
def test_what_is_not_toml_is_told_with_line_and_column(text: str, place: str) -> None:
    found = list(problems_of(text))
    assert len(found) == 1
    assert found[0] in {place, "end of the file"}


@pytest.mark.parametrize("content", [b"a = '\xff'", b"\xff\xfe", b"# ok\n\xe4"])
def test_what_is_not_utf8_is_told_with_its_place(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"line .*, column .*: is not UTF-8"):
        load_config(file)


def test_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf[dicomd]\n")
    assert load_config(file) == Config()


@pytest.mark.parametrize(
    "text",
    ["x = " + "9" * 5000, "x = " + "[" * 100_000, "x = " + "[" * 5000 + "]" * 5000, "x." * 3000 + "y = 1", "#" * 2**21],
    ids=["digits", "open brackets", "nesting", "dotted key", "length"],
)
def test_hostile_text_is_an_error_like_any_other(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


@pytest.mark.parametrize("path", ["missing.toml", ".", "a\0b", "missing/" * 3 + "x"])
def test_file_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(path)


def test_names_and_addresses_must_be_distinct() -> None:
    listener = '[[listen]]\nname = "{}"\naddress = "{}"\n'
    assert problems_of(listener.format("a", "127.0.0.1:1") + listener.format("a", "127.0.0.1:2")) == {
        "listen[1].name": '"a" is already the name of listen[0] (another name)'
    }
    for second in ("127.0.0.1:1", "0.0.0.0:1"):
        problems = problems_of(listener.format("a", "127.0.0.1:1") + listener.format("b", second))
        assert list(problems) == ["listen[1].address"]
    assert list(problems_of(listener.format("a", "0.0.0.0:11113"))) == ["http.address"]
    assert list(problems_of('[[peers]]\nname = "a"\n[[peers]]\nname = "a"')) == ["peers[1].name"]


def test_the_kernel_may_choose_several_ports() -> None:
    listener = '[[listen]]\nname = "{}"\naddress = "127.0.0.1:0"\n'
    assert (
        len(parse_config(listener.format("a") + listener.format("b") + '[http]\naddress = "127.0.0.1:0"').listen) == 2
    )


def test_verified_peers_need_authorities() -> None:
    assert "tls.client_ca" in problems_of('[tls]\nclient_certificate = "required"')
    assert "tls.client_ca" in problems_of('[tls]\ncrl = "/x.crl"')
    assert parse_config('[tls]\nclient_certificate = "none"').tls.client_certificate_policy == "none"
    assert parse_config('[tls]\nclient_ca = "/x.pem"').tls.client_certificate_policy == "required"


def test_consistency_is_checked_beside_other_errors(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    blocked = tmp_path / "file"
    blocked.touch()
    file.write_text(f"""
        [limits]
        max_pdu = 1
        [[peers]]
        name = "a"
        [[peers]]
        name = "a"
        [storage]
        root = "{blocked}"
    """)
    assert {problem.key for problem in examine(file).errors} == {"limits.max_pdu", "peers[1].name", "storage.root"}


def test_tables_with_errors_do_not_cause_further_errors() -> None:
    # the broken [[listen]] would otherwise be checked as the default listener, which has this port
    assert list(problems_of('[[listen]]\nname = "a"\n[http]\naddress = "0.0.0.0:11112"')) == ["listen[0].address"]


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().limits.associations = 7  # type: ignore[misc]


def test_show_leaves_out_what_is_unset() -> None:
    assert "client_ca" not in to_toml(Config())
    assert 'spool = ""' in to_toml(Config())


def test_changes_that_a_reload_cannot_apply_are_named() -> None:
    old = parse_config("")
    new = parse_config("""
        [[listen]]
        name = "dicom"
        address = "0.0.0.0:104"
        [storage]
        root = "/srv/store"
        durability = "none"
        [limits]
        associations = 5
        [http]
        address = "127.0.0.1:9999"
        [log]
        level = "debug"
    """)
    assert unreloadable_changes(old, new) == ["listen", "storage.root", "http.address"]
    assert unreloadable_changes(old, old) == []
