"""The Debian package: its contents, that it works in a minimal system, and what it leaves behind."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from dicomd import __version__
from tests.support.debian import Tree

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

STARTED = "551ff59224984777a2d6d988cbd83a4b"

# The installed daemon, run as its user and with its own configuration, stores an object.
STORE = """
as="setpriv --reuid=dicomd --regid=dicomd --init-groups"
install -d -o dicomd -g dicomd -m 0751 /var/lib/dicomd
$as dicomd check-config >&2
$as dicomd serve 2>/tmp/log & daemon=$!
for attempt in $(seq 100); do
    if dicomd echo 127.0.0.1 11112 >/dev/null 2>&1; then break; fi
    kill -0 $daemon || { cat /tmp/log; exit 1; }
    sleep 0.1
done
dicomd send 127.0.0.1 11112 /usr/lib/dicomd/lib/python3*/site-packages/pydicom/data/test_files/CT_small.dcm >&2
kill -TERM $daemon
wait $daemon
find /var/lib/dicomd/store -name '*.dcm'
"""


def members(package: Path) -> list[tarfile.TarInfo]:
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    assert archive.stdout is not None
    with archive.stdout, tarfile.open(fileobj=archive.stdout, mode="r|") as tar:
        found = list(tar)
    assert archive.wait() == 0
    return found


def control(package: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--info", package, name], capture_output=True, text=True, check=True).stdout


def sha256(path: Path) -> str:
    """As RECORD writes it (https://packaging.python.org/en/latest/specifications/recording-installed-packages/)."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def test_everything_belongs_to_root_and_nobody_else_may_write(package: Path) -> None:
    for member in members(package):
        assert (member.uid, member.gid) == (0, 0), member.name
        assert member.issym() or not member.mode & 0o6022, member.name


def test_every_module_comes_with_its_bytecode(package: Path) -> None:
    names = {member.name for member in members(package)}
    tag = next(name for name in names if name.endswith(".pyc")).rsplit(".", 2)[1]
    modules = [name.rpartition("/") for name in names if name.endswith(".py")]
    assert len(modules) > 100
    compiled = {f"{folder}/__pycache__/{name[:-3]}.{tag}.pyc" for folder, _, name in modules}
    assert compiled - names == set()


def test_libraries_are_as_they_were_published(package: Path, tmp_path: Path) -> None:
    """Each file has the hash that its RECORD has of it."""
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    (site,) = tmp_path.glob("usr/lib/dicomd/lib/python3*/site-packages")
    records = [csv.reader(record.read_text().splitlines()) for record in site.glob("*.dist-info/RECORD")]
    hashes = {name: value for record in records for name, value, _ in record if value}
    assert len(hashes) > 100
    assert {name: sha256(site / name) for name in hashes} == hashes


def test_nothing_of_the_build_is_left_in_it(package: Path) -> None:
    unwanted = re.compile(r"flit_core|/pip/|/setuptools/|direct_url|/tests?/|site-packages/bin")
    assert [member.name for member in members(package) if unwanted.search(member.name)] == []


def test_the_configuration_is_the_only_conffile(package: Path) -> None:
    assert control(package, "conffiles").split() == ["/etc/dicomd/dicomd.toml"]


def test_an_upgrade_restarts_the_service_and_leaves_the_sockets_up(package: Path) -> None:
    invoked = re.findall(r"deb-systemd-invoke (\S+) (.*?) >", control(package, "postinst"))
    assert {(action, units.replace("'", "")) for action, units in invoked} == {
        ("start", "dicomd.socket"),
        ("start", "dicomd-metrics.socket"),
        ("$_dh_action", "dicomd.service"),
    }
    for block in re.findall(r"^if .*?^fi", control(package, "prerm"), re.MULTILINE | re.DOTALL):
        assert '"$1" = remove' in block.splitlines()[0]


def test_the_installed_program_says_its_version(tree: Tree) -> None:
    assert tree.run("dicomd", "--version").stdout == f"dicomd {__version__}\n"


def test_nothing_outside_changes_what_the_program_imports(tree: Tree) -> None:
    (tree.path / "root" / "click.py").write_text("raise SystemExit('imported from outside')\n")
    assert "dicomd" in tree.shell("cd /root && PYTHONPATH=/root PYTHONHOME=/nowhere dicomd --version")


def test_the_folder_of_the_configuration_is_closed_to_others(tree: Tree, package: Path) -> None:
    modes = "stat -c '%a %U %G %n' /etc/dicomd /etc/dicomd/tls /etc/dicomd/dicomd.toml"
    expected = [
        "750 root dicomd /etc/dicomd",
        "750 root dicomd /etc/dicomd/tls",
        "644 root root /etc/dicomd/dicomd.toml",
    ]
    assert tree.shell(modes).splitlines() == expected
    tree.install(package)
    assert tree.shell(modes).splitlines() == expected


def test_the_units_are_enabled_but_for_tls(tree: Tree) -> None:
    units = ("dicomd.service", "dicomd.socket", "dicomd-metrics.socket", "dicomd-tls.socket")
    answer = tree.run("systemctl", "is-enabled", *units, check=False).stdout.split()
    assert answer == ["enabled", "enabled", "enabled", "disabled"]


def test_the_catalog_is_compiled(tree: Tree) -> None:
    assert STARTED in tree.run("journalctl", "--list-catalog", STARTED).stdout


def test_bash_completes_commands(tree: Tree) -> None:
    script = (
        ". /usr/share/bash-completion/completions/dicomd; COMP_WORDS=(dicomd check-) COMP_CWORD=1;"
        ' _dicomd_completion dicomd; echo "${COMPREPLY[@]}"'
    )
    assert "check-config" in tree.run("bash", "-c", script).stdout


def test_the_manual_pages_render_without_a_warning(tree: Tree) -> None:
    done = tree.run("env", "MANWIDTH=100", "man", "--warnings", "-E", "UTF-8", "8", "dicomd")
    assert "check-config" in done.stdout
    assert done.stderr == ""
    done = tree.run("env", "MANWIDTH=100", "man", "--warnings", "-E", "UTF-8", "5", "dicomd.toml")
    assert "max_object_size" in done.stdout
    assert done.stderr == ""


def test_the_installed_daemon_stores_and_purging_leaves_what_it_stored(tree: Tree, package: Path) -> None:
    (instance,) = tree.shell(STORE).split()
    stored = tree.path / instance.lstrip("/")
    before = stored.read_bytes()
    tree.apt("purge", "dicomd")
    assert stored.read_bytes() == before
    assert (
        tree.path / "var/lib/dicomd/store/.dicomd/store"
    ).is_file()  # the whole store is unchanged, not just its instances
    assert not (tree.path / "etc/dicomd/dicomd.toml").exists()
    assert not (tree.path / "usr/lib/dicomd").exists()

    tree.install(package)
    stored.unlink()
    state = tree.path / "var/lib/dicomd"
    (state / "stores").write_text("")  # as systemd makes it, with a lock as a killed worker leaves it
    (state / "store/.dicomd/audit").mkdir()
    (state / "store/.dicomd/audit/0123456789ab.lock").write_text("")
    tree.apt("purge", "dicomd")
    assert not (tree.path / "var/lib/dicomd").exists()
    tree.install(package)
