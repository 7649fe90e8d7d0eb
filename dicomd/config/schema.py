"""The schema of the configuration: every key with its type, its default and its description.

Names are the TOML keys, and nothing is defined twice: the documents, `show-config`, the suggestions for a mistyped key
and the list of what a reload can't apply are all read from these models. Models are frozen and reject unknown keys.
Durations are in seconds, sizes in bytes, rates in bytes per second.
"""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict

from dicomd.config.contexts import SupportedContexts, resolve
from dicomd.config.kinds import (
    AETitles,
    CertificateNames,
    Duration,
    FilePath,
    Folder,
    HostNames,
    Key,
    Layout,
    ListenAddress,
    ListenerName,
    Networks,
    PeerName,
    Rate,
    RemoteAddress,
    Size,
    SopClasses,
    TransferSyntaxes,
)
from dicomd.config.units import GIB, KIB, MIB, Address
from dicomd.statuses import Status

Right = Literal["echo", "store"]
ClientCertificate = Literal["required", "optional", "none"]


class Table(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class Daemon(Table):
    """The daemon as a whole."""

    ae_titles: Annotated[
        AETitles,
        Key("Called AE Titles that are accepted; the empty list accepts any, so that a first test needs none."),
    ] = ()
    workers: Annotated[
        int, Ge(0), Le(1024), Key("Number of processes that serve Associations; 0 means one per CPU.")
    ] = 0
    drain_timeout: Annotated[
        Duration,
        Key("How long open Associations may continue after a stop. After a reload they may continue until they end."),
    ] = 60.0
    runtime_dir: Annotated[
        FilePath | None,
        Key(
            "Folder for the control socket and the metric files.",
            reload=False,
            example='"/run/dicomd"',
            unset="$RUNTIME_DIRECTORY, else a private temporary folder",
        ),
    ] = None


class Listener(Table):
    """A socket that accepts Associations. If there is none, one named "dicom" listens on 0.0.0.0:11112."""

    name: Annotated[
        ListenerName,
        Key(
            "Name of the listener in metrics and logs; also the FileDescriptorName= of an inherited socket.",
            reload=False,
            example='"dicom"',
        ),
    ]
    address: Annotated[
        ListenAddress,
        Key(
            'IP address and TCP port, such as "0.0.0.0:11112" or "[::]:11112"; port 0 lets the kernel choose one.',
            reload=False,
            example='"0.0.0.0:11112"',
        ),
    ]
    tls: Annotated[bool, Key("Use TLS, configured in [tls].", reload=False)] = False
    proxy_protocol: Annotated[
        Networks,
        Key(
            "Load balancers that connections must come from, each with a PROXY protocol v2 header, which is trusted. "
            "Empty: no header is read.",
            reload=False,
            example='["10.0.0.0/8"]',
        ),
    ] = ()


class Storage(Table):
    """Where instances are kept, and how safely."""

    root: Annotated[
        FilePath,
        Key("Folder of the store. A relative path is relative to the working directory.", reload=False),
    ] = Path("/var/lib/dicomd/store")
    layout: Annotated[
        Layout,
        Key(
            "Path of an instance below the root, made from {StudyInstanceUID}, {SeriesInstanceUID}, {SOPInstanceUID}, "
            "{CalledAETitle}, {CallingAETitle}, {Peer} (its name in [[peers]], or unknown), {Modality}, {StudyDate} "
            "and {ReceivedDate} (in UTC): dates as YYYYMMDD, all made safe for a path, none where absent. It must end "
            "in .dcm and contain {SOPInstanceUID}. An instance that is sent again with another value of one of them "
            "is stored again, in another place."
        ),
    ] = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"
    unfiled: Annotated[
        Literal["refuse", "keep"],
        Key(
            "What happens to an instance that can't be filed: its Data Set can't be read far enough "
            f"(0x{Status.DATA_SET_UNREADABLE}), or lacks a UID that the layout needs "
            f'(0x{Status.LAYOUT_ELEMENT_INVALID}). "refuse" answers that status; "keep" stores it in the folder '
            "unfiled of the root, answers success, and warns. Different Data Sets under one SOP Instance UID are all "
            "kept there, whatever storage.duplicates says."
        ),
    ] = "refuse"
    durability: Annotated[
        Literal["fsync", "none"],
        Key(
            '"fsync" answers success only when the instance would survive a power failure. "none" skips the syncs, and '
            "nothing else: a power failure can then lose instances that were answered with success. It is warned "
            "about at the start."
        ),
    ] = "fsync"
    duplicates: Annotated[
        Literal["keep-both", "replace", "reject"],
        Key(
            "What happens to an instance whose SOP Instance UID is already stored with different bytes: keep both "
            f"files, replace the old file, or answer 0x{Status.DUPLICATE_REJECTED}. An identical instance is answered "
            "with success and not stored twice."
        ),
    ] = "keep-both"
    checksums: Annotated[
        bool,
        Key(
            "Record a checksum of each instance when it is received, in an extended attribute of the file; "
            "verify-store compares it."
        ),
    ] = True
    reserve_free: Annotated[
        Size,
        Key(
            "Space to keep free, however fast instances arrive. Instances that would use it are answered "
            f"0x{Status.OUT_OF_SPACE} and the daemon is not ready until 1.1 times as much is free again. 0 fills the "
            "disk to its last byte."
        ),
    ] = GIB
    max_object_size: Annotated[
        Size, Ge(1), Key(f"A larger Data Set is answered 0x{Status.OBJECT_TOO_LARGE} and not stored.")
    ] = 8 * GIB


class Contexts(Table):
    """The Presentation Contexts that are accepted. Verification is always accepted."""

    sop_classes: Annotated[
        SopClasses,
        MinLen(1),
        Key(
            'SOP Classes: the group "all-storage" (those of the standard, and others that a peer says are storage), '
            'keywords (CTImageStorage) or UIDs, including private ones; ["any"] '
            "accepts every Abstract Syntax."
        ),
    ] = ("all-storage",)
    transfer_syntaxes: Annotated[
        TransferSyntaxes,
        MinLen(1),
        Key(
            'Transfer Syntaxes in order of preference: the groups "all", "uncompressed" and "lossless" (which includes '
            "the uncompressed ones), keywords (JPEG2000Lossless) or UIDs, including private ones."
        ),
    ] = ("all",)

    def resolved(self) -> SupportedContexts:
        """Resolve the names to UIDs."""
        return resolve(self.sop_classes, self.transfer_syntaxes)


class Limits(Table):
    """Limits on what peers may use of the daemon."""

    connections: Annotated[int, Ge(1), Le(1_000_000), Key("Open TCP connections, with or without an Association.")] = (
        1024
    )
    associations: Annotated[
        int, Ge(1), Le(1_000_000), Key("Open Associations; any further one is rejected as transient (2/3/2).")
    ] = 256
    associations_per_peer: Annotated[
        int,
        Ge(1),
        Le(1_000_000),
        Key("Open Associations of one peer, that is, of one [[peers]] entry or else of one host (IPv6: a /64)."),
    ] = 64
    max_pdu: Annotated[
        Size,
        Ge(4 * KIB),
        Le(16 * MIB),
        Key(
            "Maximum Length that is advertised; a longer P-DATA-TF is answered with an A-ABORT. The limit of an "
            "A-ASSOCIATE-RQ is always 256 KiB."
        ),
    ] = 256 * KIB
    association_idle: Annotated[Duration, Gt(0), Key("Longest silence between two PDUs of an open Association.")] = 60.0
    request_timeout: Annotated[
        Duration,
        Gt(0),
        Key("ARTIM timer: from the connection to the end of the A-ASSOCIATE-RQ, including the TLS handshake."),
    ] = 10.0
    minimum_rate: Annotated[
        Rate, Key("Lowest rate of a peer in the middle of an object, averaged over 30 s; 0 means no limit.")
    ] = float(KIB)
    asynchronous_operations: Annotated[
        int,
        Ge(1),
        Le(64),
        Key(
            "C-STORE requests that a peer may have unanswered on one Association, if it proposes an Asynchronous "
            "Operations Window: the next instance is received while earlier ones are synced. 1 means one after the "
            "other."
        ),
    ] = 8


class Peer(Table):
    """A remote system that may connect. The first matching entry applies. Without any entry, every peer may store."""

    name: Annotated[PeerName, Key("Name of the peer in metrics and logs.", example='"ct1"')]
    ae_titles: Annotated[AETitles, Key("Calling AE Titles that match; empty: any.", example='["CT1"]')] = ()
    addresses: Annotated[
        Networks,
        Key(
            "Source addresses that match; empty: any. IPv4-mapped IPv6 addresses are matched as IPv4.",
            example='["10.1.2.0/24"]',
        ),
    ] = ()
    certificate_names: Annotated[
        CertificateNames,
        Key(
            "Names of which the peer's TLS certificate must have one; empty: no certificate is needed.",
            example='["ct1.example.org"]',
        ),
    ] = ()
    allow: Annotated[tuple[Right, ...], Key("What the peer may do; the empty list rejects its Associations.")] = (
        "echo",
        "store",
    )
    associations: Annotated[
        int | None,
        Ge(1),
        Le(1_000_000),
        Key("Open Associations that the peer may have.", example="8", unset="limits.associations_per_peer"),
    ] = None


class Access(Table):
    """How strictly [[peers]] is applied."""

    mode: Annotated[
        Literal["enforce", "audit"],
        Key(
            '"enforce" refuses peers that aren\'t listed and requests that an entry doesn\'t allow; "audit" lets both '
            "pass and logs what would have been refused. Limits and dicomd.ae_titles are enforced in both modes."
        ),
    ] = "enforce"


class Tls(Table):
    """TLS of the listeners that have `tls = true`. Ignored if there is none."""

    certificate: Annotated[
        FilePath, Key("PEM file of the server's certificate, followed by its intermediate certificates.")
    ] = Path("/etc/dicomd/tls/server.pem")
    key: Annotated[FilePath, Key("PEM file of the certificate's private key, without a passphrase.")] = Path(
        "/etc/dicomd/tls/server.key"
    )
    client_ca: Annotated[
        FilePath | None,
        Key(
            "PEM file of the authorities that must have issued peers' certificates.",
            example='"/etc/dicomd/tls/clients.pem"',
            unset="peers' certificates are not checked",
        ),
    ] = None
    client_certificate: Annotated[
        ClientCertificate | None,
        Key(
            "Whether a peer must present a certificate.",
            example='"required"',
            unset='"required" with client_ca, else "none"',
        ),
    ] = None
    crl: Annotated[
        FilePath | None,
        Key(
            "PEM file of certificate revocation lists for peers' certificates.",
            example='"/etc/dicomd/tls/clients.crl"',
            unset="revocation is not checked",
        ),
    ] = None
    profile: Annotated[
        Literal["bcp195", "modified-bcp195", "modern"],
        Key(
            'Secure Transport Connection Profile: "bcp195" (PS3.15 B.12), "modified-bcp195" (B.13) or "modern" (TLS '
            "1.3 only)."
        ),
    ] = "bcp195"

    @property
    def client_certificate_policy(self) -> ClientCertificate:
        """`client_certificate`, or what its absence implies."""
        return self.client_certificate or ("required" if self.client_ca else "none")


class Http(Table):
    """The HTTP listener for Prometheus and health probes: /metrics, /-/healthy, /-/ready, /status."""

    address: Annotated[
        ListenAddress,
        Key('IP address and TCP port; also the inherited descriptor "metrics".', reload=False),
    ] = Address("127.0.0.1", 11113)
    hosts: Annotated[
        HostNames,
        MaxLen(64),
        Key(
            "Names, without port, by which / and /status are shown beside IP addresses and localhost. Under any other "
            "a web page could read them (DNS rebinding). /metrics and the probes need none.",
            example='["dicomd.example.org"]',
        ),
    ] = ()


class Log(Table):
    """What is logged, and how."""

    format: Annotated[
        Literal["auto", "journald", "console", "json"],
        Key('"auto" means journald under systemd, console on a terminal, else json.', reload=False),
    ] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], Key("The lowest level that is logged.")] = "info"
    instances: Annotated[bool, Key("Log a line for each stored instance. Failures are always logged.")] = True


class Audit(Table):
    """Audit messages of PS3.15 A.5."""

    spool: Annotated[Folder, Key("Folder that audit messages are written to; empty: none.")] = None
    syslog: Annotated[RemoteAddress, Key('Syslog server over TLS, such as "syslog.example.org:6514"; empty: none.')] = (
        None
    )
    syslog_ca: Annotated[
        FilePath | None,
        Key(
            "PEM file of the authorities that must have issued the syslog server's certificate.",
            example='"/etc/dicomd/tls/syslog-ca.pem"',
            unset="the system's",
        ),
    ] = None

    @property
    def wanted(self) -> bool:
        """Whether there is anywhere for audit messages to go."""
        return self.spool is not None or self.syslog is not None


class Config(Table):
    """A whole configuration. Every table may be left out."""

    dicomd: Daemon = Daemon()
    listen: Annotated[tuple[Listener, ...], MinLen(1)] = (Listener(name="dicom", address=Address("0.0.0.0", 11112)),)
    storage: Storage = Storage()
    contexts: Contexts = Contexts()
    limits: Limits = Limits()
    peers: tuple[Peer, ...] = ()
    access: Access = Access()
    tls: Tls = Tls()
    http: Http = Http()
    log: Log = Log()
    audit: Audit = Audit()
