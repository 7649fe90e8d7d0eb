"""Certificates for tests, made when they are needed, valid for a few days, and removed with the test's folder.

Everything a hospital encounters is made here as its own authority would make it: a root, authorities below it,
certificates of servers and peers with the names and dates that a test asks for, and revocation lists.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key(kind: str = "ec") -> PrivateKey:
    """A private key: "ec" is P-256, "rsa" has 2048 bits."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, and the chain of authorities up to but not including the root."""

    x509: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate alone."""
        return self.x509.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, not encrypted with a passphrase."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def not_after(self) -> float:
        """The end of its validity, in seconds since the epoch."""
        return self.x509.not_valid_after_utc.timestamp()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write the certificate with its chain to NAME.pem, and the key to NAME.key, readable only by its owner."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in self.chain)
        certificate.write_bytes(self.pem + chain)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key


class Authority:
    """A certification authority: a root, or one below another."""

    def __init__(self, name: str = "Test Root", issuer: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = issuer
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self.subject, issuer.subject if issuer else self.subject, self.key, -DAY, 10 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False)
        signer = issuer.key if issuer else self.key
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(identifier, critical=False)  # Python 3.13 requires it (RFC 5280 §4.2.1.1)
        self.x509 = builder.sign(signer, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self.x509.public_bytes(serialization.Encoding.PEM)

    def write(self, path: Path) -> Path:
        """Write the authority's own certificate to a file."""
        path.write_bytes(self.pem)
        return path

    def below(self, name: str = "Test Issuing Authority") -> Self:
        """A new authority certified by this one."""
        return type(self)(name, self)

    def issue(
        self,
        common_name: str = "",
        names: Sequence[str] = (),
        *,
        kind: str = "ec",
        begins: dt.timedelta = -DAY,
        ends: dt.timedelta = 5 * DAY,
        usage: x509.ObjectIdentifier | None = None,
    ) -> Certificate:
        """A certificate for DNS names, IP addresses and URIs; dates are relative to now; `usage` restricts its use."""
        key = new_key(kind)
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        builder = _builder(x509.Name(attributes), self.subject, key, begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternatives, critical=not common_name)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        chain, authority = [], self
        while authority._issuer is not None:
            chain.append(authority.x509)
            authority = authority._issuer
        return Certificate(builder.sign(self.key, hashes.SHA256()), key, tuple(chain))

    def issue_for_clients_only(self, common_name: str) -> Certificate:
        """A certificate that is not valid for a server."""
        return self.issue(common_name, usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def revocation_list(self, *revoked: Certificate, ends: dt.timedelta = 5 * DAY) -> bytes:
        """A revocation list (PEM) that is due for renewal at `ends` from now."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject)
        builder = builder.last_update(now - 2 * DAY).next_update(now + ends)
        for certificate in revoked:
            serial = certificate.x509.serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def self_signed(common_name: str = "localhost", kind: str = "ec") -> Certificate:
    """A self-signed certificate, as `openssl req -x509` makes it."""
    key = new_key(kind)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(name, name, key, -DAY, 5 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return Certificate(builder.sign(key, hashes.SHA256()), key)


def requestor_context(
    trusted: Path, certificate: tuple[Path, Path] | None = None, *, version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """The TLS context of a requestor that trusts an authority, shows a certificate and has only one TLS version."""
    context = ssl.create_default_context(cafile=trusted)
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(*certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, begins: dt.timedelta, ends: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name or name.startswith("urn:"):
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Pki:
    """An authority, and the files of a server and of peers certified by it."""

    folder: Path
    root: Authority
    server: tuple[Path, Path]
    peer: tuple[Path, Path]

    @property
    def trusted(self) -> Path:
        """The authority's certificate."""
        return self.folder / "root.pem"

    def tls(self, **more: Any) -> dict[str, Any]:
        """The configuration's [tls] with the server's files and these additional keys."""
        files = {"certificate": self.server[0], "key": self.server[1]}
        return {key: str(value) for key, value in (files | more).items()}

    def show(self, names: list[str], *, root: Authority | None = None, **options: Any) -> tuple[Path, Path]:
        """Make a certificate for these names, from this authority or another, and return its files."""
        return (root or self.root).issue("", names, **options).write(self.folder, names[0])

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make an authority and files: the server is dicomd.test and 127.0.0.1, the peer is ct1.example.org."""
        root = Authority()
        root.write(folder / "root.pem")
        issuing = root.below()
        server = issuing.issue("dicomd", ["dicomd.test", "127.0.0.1"]).write(folder, "server")
        peer = issuing.issue("CT1", ["ct1.example.org", "10.1.2.3", "2001:db8::1"]).write(folder, "peer")
        return cls(folder, root, server, peer)
