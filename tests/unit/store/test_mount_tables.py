"""Detects missing mounts with complicated roots, mount points and /etc/fstab entries, using real mounts.

Each case mounts in a mount namespace of its own, so that nothing is left behind.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

PROJECT = Path(__file__).parents[3]

MISSING = """
import sys
from pathlib import Path
from dicomd.store import mounts
print(mounts.missing_mount(Path(sys.argv[1]), Path(sys.argv[2])), end="")
"""

START = """
import sys
from pathlib import Path
from dicomd.store.errors import StoreError
from tests.unit.store.instances import data_set, file_store, put
try:
    store = file_store(Path(sys.argv[1]))
    put(store, data_set())
    print("stored", end="")
except StoreError as error:
    print(error, end="")
"""

AUTOMOUNT = """
import ctypes, fcntl, os, select, struct, subprocess, sys
point, root, fstab, mounted = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
asked, ask = os.pipe()
options = f"fd={ask},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
if libc.mount(b"systemd-1", os.fsencode(point), b"autofs", 0, options.encode()):
    sys.exit(f"no autofs here: {os.strerror(ctypes.get_errno())}")
automount = os.open(point, os.O_RDONLY)
os.close(ask)
looking = subprocess.Popen([sys.executable, "-c", sys.stdin.read(), root, fstab], process_group=0)
ended = os.pidfd_open(looking.pid)
while True:
    ready, _, _ = select.select([asked, ended], [], [], 30)
    if asked not in ready:
        sys.exit(looking.wait(0) if ready else "the look at it hangs")
    token = struct.unpack_from("=iiI", os.read(asked, 4096))[2]  # include/uapi/linux/auto_fs.h: autofs_v5_packet
    if mounted == "yes":
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
        fcntl.ioctl(automount, 0x9360, token)  # AUTOFS_IOC_READY
    else:
        fcntl.ioctl(automount, 0x9361, token)  # AUTOFS_IOC_FAIL
"""


def in_namespace(command: list[str], stdin: str = "") -> str:
    """The output of a command that runs in its own mount namespace."""
    done = subprocess.run(
        ["unshare", "--mount", *command],
        input=stdin, capture_output=True, text=True, check=False, timeout=45, cwd=PROJECT,
    )  # fmt: skip
    if "no autofs here" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


CASES = {
    "link": ("ln -s data link", "T/data", "link/store", "T/data"),
    "link to what is mounted": ("ln -s data link; mount -t tmpfs t data", "T/data", "link/store", ""),
    "link to nowhere": ("ln -s $PWD/data/deep/store link", "T/data", "link", "T/data"),
    "link to nowhere, mounted": ("ln -s $PWD/data/deep/store link; mount -t tmpfs t data", "T/data", "link", ""),
    "links to links": ("ln -s data one; ln -s one two; ln -s $PWD/two/store three", "T/data", "three", "T/data"),
    "fstab has a link": ("ln -s data alias", "T/alias", "data/store", "T/data"),
    "fstab has a link, mounted": ("ln -s data alias; mount -t tmpfs t alias", "T/alias", "data/store", ""),
    "no root yet": ("", "T/data", "data/yet/to/come", "T/data"),
    "no root yet, mounted": ("mount -t tmpfs t data", "T/data", "data/yet/to/come", ""),
    "bind": ("mount --bind other data", "T/data", "data/store", ""),
    "bind is missing": ("", "T/data", "data/store", "T/data"),
    "bind of a deep folder": ("mkdir -p other/data; mount --bind other/data data", "T/data", "data", ""),
    "two on each other": ("mount -t tmpfs t data; mount -t tmpfs t data", "T/data", "data/store", ""),
    "two binds on each other": ("mount --bind other data; mount --bind other data", "T/data", "data/store", ""),
    "inner is missing": ("mount -t tmpfs t data; mkdir data/in", "T/data T/data/in", "data/in/store", "T/data/in"),
    "inner is missing, and outer": ("mkdir data/in", "T/data/in T/data", "data/in/store", "T/data/in"),
    "outer is missing": ("mkdir data/in; mount -t tmpfs t data/in", "T/data T/data/in", "data/in/store", ""),
    "a mount that isn't listed, below": ("mkdir data/in; mount -t tmpfs t data/in", "T/data", "data/in/store", ""),
    "a mount that isn't listed, above": ("mount -t tmpfs t .; cd $PWD; mkdir data", "T/data", "data/store", "T/data"),
    "hidden by a later mount": (
        "mkdir data/in; mount -t tmpfs t data/in; mount -t tmpfs t data; mkdir data/in",
        "T/data/in", "data/in", "T/data/in"
    ),
    "mounted elsewhere, too": ("mount -t tmpfs t other", "T/data", "data/store", "T/data"),
    "a neighbour is mounted": ("mkdir data2; mount -t tmpfs t data2", "T/data", "data/store", "T/data"),
    # mounts that systemd makes for ReadWritePaths=
    "over itself": ("mount --bind data data", "T/data", "data/store", "T/data"),
    "over itself, twice": ("mount --bind data data; mount --bind data data", "T/data", "data/store", "T/data"),
    "the root over itself": ("mkdir data/in; mount --bind data/in data/in", "T/data", "data/in", "T/data"),
    "the root over itself, mounted": (
        "mount -t tmpfs t data; mkdir data/in; mount --bind data/in data/in", "T/data", "data/in", ""
    ),
    "read-only but for the root": (
        "mkdir data/in; mount --rbind . .; cd $PWD; mount --bind data/in data/in", "T/data", "data/in", "T/data"
    ),
    # notations of a path
    "spaces": ("mkdir 'a b'", r"T/a\040b", "a b/store", "T/a b"),
    "spaces, mounted": ("mkdir 'a b'; mount -t tmpfs t 'a b'", r"T/a\040b", "a b/store", ""),
    "a backslash, mounted": (r"mkdir 'a\b'; mount -t tmpfs t 'a\b'", r"T/a\134b", r"a\b/store", ""),
    "a tab and a line break, mounted": (
        r"mkdir $'a\tb\nc'; mount -t tmpfs t $'a\tb\nc'", r"T/a\011b\012c", "a\tb\nc/store", ""
    ),
    "beyond ASCII": ("mkdir röntgen; mount -t tmpfs t röntgen", "T/röntgen", "röntgen/store", ""),
    "beyond ASCII, escaped": ("mkdir röntgen", r"T/r\303\266ntgen", "röntgen/store", "T/röntgen"),
    "a slash at the end": ("", "T/data/", "data/store", "T/data"),
    "a slash at the end, mounted": ("mount -t tmpfs t data", "T/data//", "data/store", ""),
    "swap": ("", "none swap", "data/store", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_which_mount_is_missing(tmp_path: Path, case: str) -> None:
    script, points, root, expected = CASES[case]
    place = tmp_path / "T"
    (place / "data").mkdir(parents=True)
    (place / "other").mkdir()
    fstab = tmp_path / "fstab"
    lines = [f"/dev/sdb1\t{point.replace('T', str(place), 1)}  ext4 defaults 0 2\n" for point in points.split()]
    fstab.write_text(f"  # a comment\n\n/dev/sda1 / ext4 defaults 0 1\n{''.join(lines)}")
    command = f"cd '{place}'; {script or ':'}; cd {PROJECT}; exec \"$@\""
    told = in_namespace(["bash", "-ec", command, "-", sys.executable, "-c", MISSING, f"{place}/{root}", str(fstab)])
    assert told == expected.replace("T", str(place), 1)


def test_a_folder_that_fstab_mounts_over_itself_is_not_missed(tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{tmp_path} {tmp_path} none bind,shared 0 0\n")
    assert in_namespace([sys.executable, "-c", MISSING, str(tmp_path / "store"), str(fstab)]) == ""


SUBVOLUMES = """
truncate -s 128M image
mkfs.btrfs -q image >/dev/null
mount -t btrfs -o loop image data
btrfs subvolume create data/in >/dev/null
[ $1 = no ] || mount -t btrfs -o subvol=in $(findmnt -no SOURCE data | cut -d[ -f1) data/in
mkdir -p data/in/plain
[ $1 != over ] || for folder in data/in data/in/plain; do mount --bind $folder $folder; done
shift
"""


@pytest.mark.parametrize("root", ["data/in", "data/in/store", "data/in/plain/store"])
@pytest.mark.parametrize(("mounted", "expected"), [("yes", ""), ("over", ""), ("no", "data/in")])
def test_a_subvolume_that_is_mounted_where_it_lies_is_not_missed(
    tmp_path: Path, root: str, mounted: str, expected: str
) -> None:
    """As openSUSE mounts /srv and /var; `over`: also with ReadWritePaths=."""
    if not shutil.which("mkfs.btrfs") or not shutil.which("btrfs"):
        pytest.skip("mkfs.btrfs is not installed (Debian package btrfs-progs)")
    (tmp_path / "data").mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdb1 {tmp_path}/data btrfs\n/dev/sdb1 {tmp_path}/data/in btrfs subvol=/in\n")
    command = f"cd '{tmp_path}'; {SUBVOLUMES} cd {PROJECT}; exec \"$@\""
    look = [sys.executable, "-c", MISSING, f"{tmp_path}/{root}", str(fstab)]
    assert in_namespace(["bash", "-ec", command, "-", mounted, *look]) == (expected and f"{tmp_path}/{expected}")


@pytest.mark.parametrize("root", ["data", "data/store"])
@pytest.mark.parametrize(("mounted", "expected"), [("yes", ""), ("no", "missing")])
def test_what_is_mounted_when_it_is_looked_at_is_looked_at(
    tmp_path: Path, mounted: str, expected: str, root: str
) -> None:
    """As with the mount option x-systemd.automount."""
    point = tmp_path / "data"
    point.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdb1 {point} ext4 noauto,x-systemd.automount 0 2\n")
    command = [sys.executable, "-c", AUTOMOUNT, str(point), str(tmp_path / root), str(fstab), mounted]
    told = in_namespace(command, stdin=MISSING)
    assert told == expected.replace("missing", str(point))


@pytest.mark.parametrize("mounted", [False, True])
def test_a_start_behind_a_symbolic_link(tmp_path: Path, mounted: bool) -> None:
    if not Path("/etc/fstab").exists():
        pytest.skip("there is no /etc/fstab to mount another over")
    point = tmp_path / "data"
    point.mkdir()
    root = tmp_path / "root"
    root.symlink_to(point / "store")
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdb1 {point} ext4 defaults 0 2\n")
    mount = f"mount --bind '{fstab}' /etc/fstab; " + (
        f"mount -t tmpfs t '{point}'; mkdir '{point}/store'; " if mounted else ""
    )
    told = in_namespace(["bash", "-ec", f'{mount}exec "$@"', "-", sys.executable, "-c", START, str(root)])
    assert told == ("stored" if mounted else f"Not mounted: {point}"[:64])
    assert list(point.iterdir()) == []


def test_a_root_in_a_folder_that_knows_no_syncs(tmp_path: Path) -> None:
    """As if the system is on squashfs; `/sys` is also such a folder."""
    parent = Path("/sys/kernel/debug")
    if not parent.is_dir():
        pytest.skip(f"{parent} is not in this kernel")
    mount = f"mount -t tmpfs -o size=1m t {parent}; "
    told = in_namespace(["bash", "-ec", f'{mount}exec "$@"', "-", sys.executable, "-c", START, str(parent)])
    assert told == "stored"
