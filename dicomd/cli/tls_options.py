"""The TLS options of the commands that call a peer, and the TLS context they ask for.

Invariant: with --tls the peer's certificate and name are verified. Each check has to be turned off by an option of its
own, and --tls-insecure, which turns off all of them, also prints a warning on stderr.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The options as given. `authorities` None means those of the system, `name` None the host that is called."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None
    any_name: bool = False
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Make the requestor's TLS context. Raises click.UsageError for files that can't be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = not (self.any_name or self.insecure)
        if self.insecure:
            context.verify_mode = ssl.CERT_NONE
        elif self.authorities is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
            _load(lambda: context.load_verify_locations(cafile=self.authorities), "--ca", self.authorities)
        if self.certificate is not None:
            load, files = context.load_cert_chain, (self.certificate, self.key or self.certificate)
            _load(lambda: load(*files), "--certificate, --key", self.certificate)
        return context


def _load(load: Callable[[], None], option: str, path: Path) -> None:
    try:
        load()
    except (ssl.SSLError, OSError, ValueError) as error:
        why = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise click.UsageError(f"{option}: {path} can't be used: {why}") from error


def tls_options(command: Decorated) -> Decorated:
    """Add the options to a command, which gets them as its parameter `tls`: `TlsOptions`, or None without --tls."""
    options = (
        click.option("--tls", "use_tls", is_flag=True, help="Use TLS, and verify the peer's certificate and name."),
        click.option("--ca", type=_FILE, metavar="FILE", help="Trust these authorities (PEM) instead of the system's."),
        click.option("--certificate", type=_FILE, metavar="FILE", help="Certificate (PEM) to present to the peer."),
        click.option(
            "--key", type=_FILE, metavar="FILE", help="Private key (PEM); default: in the --certificate file."
        ),
        click.option("--tls-name", metavar="NAME", help="Name to expect in the peer's certificate instead of HOST."),
        click.option("--tls-any-name", is_flag=True, help="Accept any name in a certificate that is trusted."),
        click.option("--tls-insecure", is_flag=True, help="Verify nothing: the peer may be anybody."),
    )

    @wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in _PARAMETERS}
        return command(*args, tls=_tls(**given), **kwargs)

    decorated: Any = collected
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


_PARAMETERS = ("use_tls", "ca", "certificate", "key", "tls_name", "tls_any_name", "tls_insecure")


def _tls(
    *,
    use_tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    tls_name: str | None,
    tls_any_name: bool,
    tls_insecure: bool,
) -> TlsOptions | None:
    if not use_tls:
        if ca or certificate or key or tls_name or tls_any_name or tls_insecure:
            raise click.UsageError("TLS options need --tls")
        return None
    if key and not certificate:
        raise click.UsageError("--key needs --certificate")
    if tls_insecure and (ca or tls_name):
        raise click.UsageError("--tls-insecure verifies nothing, so it can't be combined with --ca or --tls-name")
    if tls_insecure:
        click.echo("warning: --tls-insecure: the peer's identity is not verified", err=True)
    return TlsOptions(ca, certificate, key, tls_name, tls_any_name, tls_insecure)
