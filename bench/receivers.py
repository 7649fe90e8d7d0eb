"""The receivers that are compared: how each is started, what it can't do, and how many instances it has stored.

Rule: every receiver runs as its users would run it, with its defaults, except what the comparison needs: loopback where
it can be told so, no access rules, and no limit below the work's. Each gets a fresh folder on the same file system.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import blast, processes
from bench.certificates import Certificates
from bench.errors import BenchError, BlastError
from bench.scratch import Scratch

READY_WITHIN = 60.0  # seconds from start to the first answered C-ECHO
STOPPED_WITHIN = 20.0  # seconds from SIGTERM to SIGKILL


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program(name: str) -> str:
    """Where Debian's program of that name is, "" without it; pynetdicom's of the same name are passed over."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    folders = [folder for folder in os.get_exec_path() if folder not in own]
    return shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin", "/usr/bin"])) or ""


@dataclass(frozen=True)
class Place:
    """Where one run happens: the receiver's ports, the folder it stores in, those for other files, and TLS."""

    port: int
    http_port: int
    store: Path
    private: Path  # the receiver's configuration and output
    sender: Path  # not there yet: for the files of a sender that reads files
    certificates: Certificates | None = None

    @property
    def address(self) -> blast.Receiver:
        """The receiver as the senders know it."""
        return blast.Receiver(self.port, tls=str(self.certificates.ca) if self.certificates else "")


class Receiver:
    """One of the compared programs."""

    name = ""
    title = ""
    tls = True
    association_limit = 0  # Associations it serves side by side as it is shipped; 0: as many as are asked for here

    def missing(self) -> str:
        """Why it can't run here; "" if it can."""
        return ""

    def version(self) -> str:
        """As it calls itself."""
        raise NotImplementedError

    def command(self, place: Place) -> list[str]:
        """The argument list that starts it, after whatever files that needs are written."""
        raise NotImplementedError

    def stored(self, place: Place) -> int:
        """How many instances it has stored."""
        return sum(1 for path in place.store.rglob("*") if path.is_file())


class Dicomd(Receiver):
    """dicomd with one of its two durabilities, and as many workers as there are cores unless told otherwise."""

    limits: tuple[str, ...] = ("[limits]", "associations_per_peer = 256")
    """Lines of its configuration: one peer's share of the Associations, since all here come from one address."""

    def __init__(self, durability: str, workers: int = 0) -> None:
        self.durability, self.workers = durability, workers
        self.name, self.title = f"dicomd-{durability}", f"dicomd {durability}"
        if workers:
            self.name += f"-w{workers}"
            self.title += f", {workers} worker{'' if workers == 1 else 's'}"

    def version(self) -> str:
        """From the installed distribution."""
        return importlib.metadata.version("dicomd")

    def command(self, place: Place) -> list[str]:
        """Defaults throughout, but for `limits`."""
        lines = [
            "[dicomd]" if self.workers else "",
            f"workers = {self.workers}" if self.workers else "",
            "[[listen]]",
            'name = "dicom"',
            f'address = "127.0.0.1:{place.port}"',
            "tls = true" if place.certificates else "",
            "[storage]",
            f"root = {json.dumps(str(place.store))}",
            f'durability = "{self.durability}"',
            *self.limits,
            "[http]",
            f'address = "127.0.0.1:{place.http_port}"',
        ]
        if place.certificates:
            lines += [
                "[tls]",
                f"certificate = {json.dumps(str(place.certificates.certificate))}",
                f"key = {json.dumps(str(place.certificates.key))}",
            ]
        config = place.private / "dicomd.toml"
        config.write_text("\n".join(line for line in lines if line) + "\n")
        return [sys.executable, "-m", "dicomd", "serve", "--config", str(config)]

    def stored(self, place: Place) -> int:
        """Files outside of .dicomd, which holds no instance."""
        return sum(1 for path in place.store.rglob("*.dcm") if ".dicomd" not in path.relative_to(place.store).parts)


class Dcmtk(Receiver):
    """DCMTK's storescp, a process an Association, writing the data set as it comes."""

    name = "dcmtk"
    title = "DCMTK storescp"

    def missing(self) -> str:
        """Without Debian's dcmtk."""
        return "" if program("storescp") else "storescp of DCMTK isn't installed"

    def version(self) -> str:
        """The third word of its first line: `$dcmtk: storescp v3.6.7 2022-04-22 $`."""
        return version_line(program("storescp"))

    def command(self, place: Place) -> list[str]:
        """`storescp --fork -B +B` would be its default and then bit-preserving; the latter wins."""
        words = [program("storescp"), "--fork", "-B", "+B", "-od", str(place.store)]
        if place.certificates:
            words += ["+tls", str(place.certificates.key), str(place.certificates.certificate), "--ignore-peer-cert"]
        return [*words, str(place.port)]


class Pynetdicom(Receiver):
    """pynetdicom's storescp application."""

    name = "pynetdicom"
    title = "pynetdicom storescp"
    tls = False
    association_limit = 10

    def version(self) -> str:
        """From the installed distribution."""
        return importlib.metadata.version("pynetdicom")

    def command(self, place: Place) -> list[str]:
        """Quiet: by default it logs nothing but warnings either."""
        base = [sys.executable, "-m", "pynetdicom", "storescp", str(place.port)]
        return [*base, "-q", "-ba", "127.0.0.1", "-od", str(place.store)]


class Orthanc(Receiver):
    """Orthanc with its own index and storage, no plugins; it answers after its files are synced, as by default."""

    name = "orthanc"
    title = "Orthanc"

    def missing(self) -> str:
        """Without Debian's orthanc."""
        return "" if program("Orthanc") else "Orthanc isn't installed"

    def version(self) -> str:
        """`Orthanc 1.10.1`."""
        return version_line(program("Orthanc"))

    def command(self, place: Place) -> list[str]:
        """What isn't named in the configuration has Orthanc's default."""
        settings: dict[str, object] = {
            "Name": "bench",
            "StorageDirectory": str(place.store),
            "IndexDirectory": str(place.store),
            "Plugins": [],
            "DicomPort": place.port,
            "HttpPort": place.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
        }
        if place.certificates:
            settings |= {
                "DicomTlsEnabled": True,
                "DicomTlsCertificate": str(place.certificates.certificate),
                "DicomTlsPrivateKey": str(place.certificates.key),
                "DicomTlsTrustedCertificates": str(place.certificates.ca),
                "DicomTlsRemoteCertificateRequired": False,
            }
        config = place.private / "orthanc.json"
        config.write_text(json.dumps(settings, indent=1))
        return [program("Orthanc"), str(config)]

    def stored(self, place: Place) -> int:
        """By its own count, since it stores several files an instance."""
        url = f"http://127.0.0.1:{place.http_port}/statistics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(json.load(answer)["CountInstances"])


def version_line(path: str) -> str:
    """The version in the first line that the program prints with --version."""
    output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
    words = (output.splitlines() or [""])[0].split()
    return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), "unknown")


@dataclass(frozen=True)
class Running:
    """A started receiver that has answered a C-ECHO."""

    receiver: Receiver
    place: Place
    pid: int
    ready_after: float


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a receiver's output, for a message."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def wait_ready(process: subprocess.Popen[bytes], receiver: Receiver, place: Place, within: float) -> None:
    """Returns when the receiver answers a C-ECHO with Success. Raises BenchError if it ends or takes too long."""
    deadline = time.monotonic() + within
    trouble = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{receiver.title} ended with {process.returncode} at its start")
        try:
            association = blast.Association(place.address)
            status = association.echo()
            association.release()
            if status == 0:
                return
            trouble = f"C-ECHO was answered {status:04X}"
        except (OSError, BlastError) as error:
            trouble = str(error)
        time.sleep(0.05)
    raise BenchError(f"{receiver.title} wasn't ready within {within:.0f} s: {trouble}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for what is left of the process and its descendants when the time is up."""
    family = processes.tree(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    deadline = time.monotonic() + 2
    left = [pid for pid in family if pid != process.pid]
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if (processes.PROC / str(pid)).exists()]
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(
    receiver: Receiver, scratch: Scratch, certificates: Certificates | None = None, ready_within: float = READY_WITHIN
) -> Iterator[Running]:
    """Starts the receiver in a new folder, stops it at the end. Raises BenchError with the receiver's last words."""
    with scratch.folder(receiver.name) as folder:
        place = Place(free_port(), free_port(), folder / "store", folder / "private", folder / "sender", certificates)
        place.store.mkdir()
        place.private.mkdir()
        log = place.private / "output.log"
        with log.open("wb") as output:
            began = time.monotonic()
            process = subprocess.Popen(
                receiver.command(place),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        try:
            wait_ready(process, receiver, place, ready_within)
            yield Running(receiver, place, process.pid, time.monotonic() - began)
        except BenchError as error:
            raise BenchError(f"{error}\nits last output:\n{log_tail(log)}") from error
        finally:
            stop(process)


RECEIVERS: tuple[Receiver, ...] = (Dicomd("none"), Dicomd("fsync"), Dcmtk(), Pynetdicom(), Orthanc())
WORKERS: tuple[Receiver, ...] = tuple(Dicomd(each, count) for each in ("none", "fsync") for count in (1, 2))
"""dicomd beside itself: what a second worker brings."""
BY_NAME = {receiver.name: receiver for receiver in (*RECEIVERS, *WORKERS)}
