"""The configuration: every key, its type, its default, its sentence.

The rule: names are the TOML keys; nothing is defined twice. The documents, `show-config`, the suggestions for a
mistyped key and the list of what a reload can't apply are all read from these models. Models are frozen and reject
keys they don't know. Durations are seconds, sizes bytes, rates bytes a second.
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

Right = Literal["echo", "store"]
ClientCertificate = Literal["required", "optional", "none"]


class Table(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class Daemon(Table):
    """The daemon as a whole."""

    ae_titles: Annotated[
        AETitles,
        Key("Called AE Titles that are accepted; the empty list accepts any, so that a first try needs none."),
    ] = ()
    workers: Annotated[int, Ge(0), Le(1024), Key("Processes that serve Associations; 0 is one for each CPU.")] = 0
    drain_timeout: Annotated[
        Duration,
        Key("How long open Associations may go on at a stop. After a reload they end in their own time."),
    ] = 60.0
    runtime_dir: Annotated[
        FilePath | None,
        Key(
            "Folder of the control socket and the metric files.",
            reload=False,
            example='"/run/dicomd"',
            unset="$RUNTIME_DIRECTORY, else a private temporary folder",
        ),
    ] = None


class Listener(Table):
    """A socket that takes Associations. Without any, one named "dicom" listens on 0.0.0.0:11112."""

    name: Annotated[
        ListenerName,
        Key(
            "Its name in metrics and logs; also the FileDescriptorName= of an inherited socket.",
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
    tls: Annotated[bool, Key("Speak TLS, as [tls] says.", reload=False)] = False
    proxy_protocol: Annotated[
        Networks,
        Key(
            "Balancers whose PROXY protocol v2 header is trusted, and then required. Empty: no header is read.",
            reload=False,
            example='["10.0.0.0/8"]',
        ),
    ] = ()


class Storage(Table):
    """Where instances are kept, and how safely."""

    root: Annotated[
        FilePath,
        Key("Folder of the store. A relative path starts at the working directory.", reload=False),
    ] = Path("/var/lib/dicomd/store")
    layout: Annotated[
        Layout,
        Key(
            "Path of an instance below the root, from {StudyInstanceUID}, {SeriesInstanceUID} and {SOPInstanceUID}. "
            "It ends in .dcm; only {SOPInstanceUID} is needed."
        ),
    ] = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"
    durability: Annotated[
        Literal["fsync", "none"],
        Key(
            '"fsync" answers success when the instance is safe from a power cut; "none" skips only the syncs, and is '
            "warned about at start."
        ),
    ] = "fsync"
    duplicates: Annotated[
        Literal["keep-both", "replace", "reject"],
        Key(
            "What happens to other bytes under a SOP Instance UID that is there already: keep both files, rename the "
            "new one over the old, or answer 0xC010. The identical instance is a success without a second file."
        ),
    ] = "keep-both"
    checksums: Annotated[
        bool,
        Key(
            "Record a checksum of each instance at its reception, in an extended attribute of the file; "
            "verify-store compares it."
        ),
    ] = True
    reserve_free: Annotated[
        Size,
        Key(
            "Space to leave free, however fast is sent: instances that would go below it are answered 0xA700 and the "
            "daemon is not ready, until 1.1 times as much is free again. 0 fills the disk to its last byte."
        ),
    ] = GIB
    max_object_size: Annotated[Size, Ge(1), Key("A larger data set is answered 0xA710 and not kept.")] = 8 * GIB


class Contexts(Table):
    """Which Presentation Contexts are accepted. Verification always is."""

    sop_classes: Annotated[
        SopClasses,
        MinLen(1),
        Key(
            'SOP Classes: the group "all-storage", keywords (CTImageStorage) or UIDs, private ones too; ["any"] takes '
            "every Abstract Syntax."
        ),
    ] = ("all-storage",)
    transfer_syntaxes: Annotated[
        TransferSyntaxes,
        MinLen(1),
        Key(
            'Transfer Syntaxes in order of preference: the groups "all", "uncompressed" and "lossless" (which includes '
            "the uncompressed), keywords (JPEG2000Lossless) or UIDs, private ones too."
        ),
    ] = ("all",)

    def resolved(self) -> SupportedContexts:
        """The UIDs behind the texts."""
        return resolve(self.sop_classes, self.transfer_syntaxes)


class Limits(Table):
    """What bounds a peer's use of the daemon."""

    connections: Annotated[int, Ge(1), Le(1_000_000), Key("Open TCP connections, Associations or not.")] = 1024
    associations: Annotated[
        int, Ge(1), Le(1_000_000), Key("Open Associations; one more is rejected, transient (2/3/2).")
    ] = 256
    associations_per_peer: Annotated[
        int,
        Ge(1),
        Le(1_000_000),
        Key("Open Associations of one peer: of a [[peers]] entry, else of one source address."),
    ] = 64
    max_pdu: Annotated[
        Size,
        Ge(4 * KIB),
        Le(16 * MIB),
        Key(
            "Maximum Length that is advertised; a longer P-DATA-TF is aborted. An A-ASSOCIATE-RQ has its own limit of "
            "256 KiB."
        ),
    ] = 256 * KIB
    association_idle: Annotated[Duration, Gt(0), Key("Longest silence between two PDUs of an open Association.")] = 60.0
    request_timeout: Annotated[
        Duration,
        Gt(0),
        Key("ARTIM timer: from the connection to the A-ASSOCIATE-RQ, TLS handshake included."),
    ] = 10.0
    minimum_rate: Annotated[
        Rate, Key("Slowest peer in the middle of an object, averaged over 30 s; 0 lets it take its time.")
    ] = float(KIB)


class Peer(Table):
    """A remote that may connect. The first entry that matches counts; with none at all, every peer may store."""

    name: Annotated[PeerName, Key("Its label in metrics and logs.", example='"ct1"')]
    ae_titles: Annotated[AETitles, Key("Calling AE Titles it uses; the empty list is any.", example='["CT1"]')] = ()
    addresses: Annotated[
        Networks,
        Key(
            "Where it connects from; the empty list is anywhere. IPv4-mapped IPv6 addresses are matched as IPv4.",
            example='["10.1.2.0/24"]',
        ),
    ] = ()
    certificate_names: Annotated[
        CertificateNames,
        Key("Names in its TLS certificate; the empty list asks for none.", example='["ct1.example.org"]'),
    ] = ()
    allow: Annotated[tuple[Right, ...], Key("What it may do; the empty list refuses it.")] = ("echo", "store")
    associations: Annotated[
        int | None,
        Ge(1),
        Le(1_000_000),
        Key("Open Associations it may have.", example="8", unset="limits.associations_per_peer"),
    ] = None


class Access(Table):
    """How strictly [[peers]] is applied."""

    mode: Annotated[
        Literal["enforce", "audit"],
        Key(
            '"enforce" refuses who isn\'t listed, or asks for what its entry doesn\'t allow; "audit" lets them, and '
            "logs who would have been refused. Limits and dicomd.ae_titles hold in either."
        ),
    ] = "enforce"


class Tls(Table):
    """TLS of the listeners that have `tls = true`; not read without one."""

    certificate: Annotated[
        FilePath, Key("PEM file of the server's certificate, followed by its intermediate certificates.")
    ] = Path("/etc/dicomd/tls/server.pem")
    key: Annotated[FilePath, Key("PEM file of its private key, without a passphrase.")] = Path(
        "/etc/dicomd/tls/server.key"
    )
    client_ca: Annotated[
        FilePath | None,
        Key(
            "PEM file of the authorities that peers' certificates must come from.",
            example='"/etc/dicomd/tls/clients.pem"',
            unset="peers' certificates are not checked",
        ),
    ] = None
    client_certificate: Annotated[
        ClientCertificate | None,
        Key(
            "Whether a peer must show a certificate.",
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
        """`client_certificate`, or what its absence means."""
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
        Key('"auto" is journald under systemd, console on a terminal, else json.', reload=False),
    ] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], Key("The least important level that is logged.")] = (
        "info"
    )
    instances: Annotated[bool, Key("Log a line for each instance.")] = True


class Audit(Table):
    """Audit messages of PS3.15 A.5."""

    spool: Annotated[Folder, Key("Folder that audit messages are written to; empty is off.")] = None
    syslog: Annotated[
        RemoteAddress, Key('Syslog server over TLS, such as "syslog.example.org:6514"; empty is off.')
    ] = None
    syslog_ca: Annotated[
        FilePath | None,
        Key(
            "PEM file of the authorities that the syslog server's certificate must come from.",
            example='"/etc/dicomd/tls/syslog-ca.pem"',
            unset="the system's",
        ),
    ] = None

    @property
    def wanted(self) -> bool:
        """Whether there is anywhere for audit messages to go."""
        return self.spool is not None or self.syslog is not None


class Config(Table):
    """A whole configuration. Every table may be absent."""

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
