"""The receivers that are compared: how each is started, what it can't do, and how many instances it has stored.

Every receiver runs as its users would run it, with its defaults, except for what the comparison needs: it listens on
loopback if that is possible, has no access rules, and no limit that the work exceeds. Each gets a new folder on the
same file system.
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
from bench.versions import Version

READY_WITHIN = 60.0  # seconds from start to the first answered C-ECHO
STOPPED_WITHIN = 20.0  # seconds from SIGTERM to SIGKILL


def free_port() -> int:
    """Find a free TCP port on 127.0.0.1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program(name: str) -> str:
    """Find Debian's program of that name, "" if it is missing; ignore pynetdicom's programs of the same name."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    folders = [folder for folder in os.get_exec_path() if folder not in own]
    return shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin", "/usr/bin"])) or ""


@dataclass(frozen=True)
class Place:
    """What one run uses: the receiver's ports, the folder that it stores in, those for other files, and TLS."""

    port: int
    http_port: int
    store: Path
    private: Path  # the receiver's configuration and output
    sender: Path  # for the files of a sender that reads files, which creates it
    certificates: Certificates | None = None

    @property
    def address(self) -> blast.Receiver:
        """The receiver's address for the senders."""
        return blast.Receiver(self.port, tls=str(self.certificates.ca) if self.certificates else "")


class Receiver:
    """One of the compared programs."""

    name = ""
    title = ""
    tls = True
    association_limit = 0  # Associations that it serves at once by default; 0: enough for any workload

    def missing(self) -> str:
        """Say why it can't run here; "" if it can."""
        return ""

    def version(self) -> str:
        """Return its version."""
        raise NotImplementedError

    def command(self, place: Place) -> list[str]:
        """Write the files that it needs, and return the command that starts it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment variables that it needs besides those of the benchmark."""
        return {}

    def stored(self, place: Place) -> int:
        """Count the instances that it has stored."""
        return sum(1 for path in place.store.rglob("*") if path.is_file())


class Dicomd(Receiver):
    """dicomd with one of its two durabilities, and by default one worker per core; by default the installed version."""

    limits: tuple[str, ...] = ("[limits]", "associations_per_peer = 256")
    """Lines of its configuration: the limit for one peer is raised, since all Associations come from one address."""

    def __init__(self, durability: str, workers: int = 0, other: Version | None = None) -> None:
        self.durability, self.workers, self.other = durability, workers, other
        self.name, self.title = f"dicomd-{durability}", f"dicomd {durability}"
        if workers:
            self.name += f"-w{workers}"
            self.title += f", {workers} worker{'' if workers == 1 else 's'}"
        if other:
            self.name += f"@{other.label}"
            self.title += f" @ {other.label}"

    def version(self) -> str:
        """Return the version of the installed distribution, or how the other version is called."""
        return self.other.label if self.other else importlib.metadata.version("dicomd")

    def environment(self) -> dict[str, str]:
        """Have Python import the other version, if it is one."""
        return self.other.environment() if self.other else {}

    def command(self, place: Place) -> list[str]:
        """Write a configuration with defaults for everything but `limits`, and return the command."""
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
        """Count the files outside of .dicomd, which contains no instances."""
        return sum(1 for path in place.store.rglob("*.dcm") if ".dicomd" not in path.relative_to(place.store).parts)


class Dcmtk(Receiver):
    """DCMTK's storescp with a process for each Association, writing Data Sets as they are received."""

    name = "dcmtk"
    title = "DCMTK storescp"

    def missing(self) -> str:
        """Say so if Debian's dcmtk is missing."""
        return "" if program("storescp") else "storescp of DCMTK isn't installed"

    def version(self) -> str:
        """Return the third word of its first line: `$dcmtk: storescp v3.6.7 2022-04-22 $`."""
        return version_line(program("storescp"))

    def command(self, place: Place) -> list[str]:
        """Return `storescp --fork -B +B`: of the two options, the later one, bit-preserving, applies."""
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
        """Return the version of the installed distribution."""
        return importlib.metadata.version("pynetdicom")

    def command(self, place: Place) -> list[str]:
        """Return the command, with -q: by default it logs nothing but warnings either."""
        base = [sys.executable, "-m", "pynetdicom", "storescp", str(place.port)]
        return [*base, "-q", "-ba", "127.0.0.1", "-od", str(place.store)]


class Orthanc(Receiver):
    """Orthanc with its own index and storage, without plugins; as by default, it answers after syncing its files."""

    name = "orthanc"
    title = "Orthanc"

    def missing(self) -> str:
        """Say so if Debian's orthanc is missing."""
        return "" if program("Orthanc") else "Orthanc isn't installed"

    def version(self) -> str:
        """Return the version in `Orthanc 1.10.1`."""
        return version_line(program("Orthanc"))

    def command(self, place: Place) -> list[str]:
        """Write a configuration, with Orthanc's defaults for what isn't in it, and return the command."""
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
        """Return Orthanc's own count, since it stores several files for each instance."""
        url = f"http://127.0.0.1:{place.http_port}/statistics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(json.load(answer)["CountInstances"])


def version_line(path: str) -> str:
    """Return the version in the first line that the program prints with --version."""
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
    """Return the last lines of a receiver's output, for an error message."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def wait_ready(process: subprocess.Popen[bytes], receiver: Receiver, place: Place, within: float) -> None:
    """Wait until the receiver answers a C-ECHO with Success. Raises BenchError if it ends or takes too long."""
    deadline = time.monotonic() + within
    trouble = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{receiver.title} ended with {process.returncode} while starting")
        try:
            association = blast.Association(place.address)
            status = association.echo()
            association.release()
            if status == 0:
                return
            trouble = f"C-ECHO was answered with {status:04X}"
        except (OSError, BlastError) as error:
            trouble = str(error)
        time.sleep(0.05)
    raise BenchError(f"{receiver.title} wasn't ready within {within:.0f} s: {trouble}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM; after a time limit, send SIGKILL to what is left of the process and its descendants."""
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
    """Start the receiver in a new folder and stop it at the end. A BenchError gets the receiver's last output."""
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
                env={**os.environ, "LC_ALL": "C.UTF-8", **receiver.environment()},
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
"""dicomd with one and with two workers, to show what the second one gains."""
BY_NAME = {receiver.name: receiver for receiver in (*RECEIVERS, *WORKERS)}
