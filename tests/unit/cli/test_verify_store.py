"""`dicomd verify-store`: its output and its exit status."""

from pathlib import Path

from click.testing import CliRunner

from dicomd.cli.main import main
from tests.unit.store.instances import LAYOUT, data_set, file_store, identity, put


def run(root: Path, layout: str = LAYOUT) -> tuple[int, str]:
    config = root.parent / "dicomd.toml"
    config.write_text(f'[storage]\nroot = "{root}"\nlayout = "{layout}"\n')
    result = CliRunner().invoke(main, ["verify-store", "--config", str(config)])
    return result.exit_code, result.output


def test_a_sound_store(tmp_path: Path) -> None:
    store = file_store(tmp_path / "root")
    put(store, data_set())
    put(store, data_set("1.1"), identity("1.1"))
    status, output = run(tmp_path / "root")
    assert status == 0
    assert output.startswith(f"{tmp_path}/root: 2 instances OK, {2 * store.checksums} of them by checksum; 0 ")


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    layout = "{CalledAETitle}/{Peer}/{ReceivedDate}/{SOPInstanceUID}.dcm"
    put(file_store(tmp_path / "root", layout=layout), data_set())
    status, output = run(tmp_path / "root", layout)
    assert status == 0
    assert output.endswith("Not checked, as files don't tell them: {Peer} and {ReceivedDate}\n")


def test_problems_are_listed_with_advice_and_nothing_is_changed(tmp_path: Path) -> None:
    store = file_store(tmp_path / "root")
    path = put(store, data_set()).path
    path.write_bytes(b"damaged")
    (tmp_path / "root" / "a\nb").touch()
    status, output = run(tmp_path / "root")
    assert status == 1
    assert "1.2.3/1.2.3.4/1.2.3.4.5.dcm: it is" in output
    assert "(have it sent again" in output
    assert "'a\\nb': not a file of dicomd's (move it out of the store)" in output
    assert "0 instances OK, 0 of them by checksum; 2 problems" in output
    assert path.read_bytes() == b"damaged"


def test_no_store_at_all(tmp_path: Path) -> None:
    status, output = run(tmp_path / "nowhere")
    assert status == 1
    assert "no such folder" in output
