"""The TLS of a configuration: what its listeners offer, made once for all workers of a generation.

The rule it keeps: the files are read when the configuration is, before anything of it comes into force. So files that
can't serve leave the old ones in force, and a worker that is replaced later serves as the others of its generation do.
"""

from __future__ import annotations

import ssl

from dicomd.config.schema import Config
from dicomd.net.tls import TlsSettings, reason, server_context


class UnusableTlsError(Exception):
    """The files of [tls] can't be used; the message says why."""


def listeners_context(config: Config) -> ssl.SSLContext | None:
    """What the TLS listeners of `config` offer, None where there are none. Raises `UnusableTlsError`."""
    if not any(listener.tls for listener in config.listen):
        return None
    tls = config.tls
    settings = TlsSettings(
        certificate=tls.certificate,
        key=tls.key,
        client_ca=tls.client_ca,
        client_certificate=tls.client_certificate_policy,
        crl=tls.crl,
        profile=tls.profile,
    )
    try:
        return server_context(settings)
    except ssl.SSLError as error:
        raise UnusableTlsError(f"tls: {reason(error)} (`dicomd check-config` looks at each file)") from error
    except OSError as error:
        raise UnusableTlsError(f"tls: {error.strerror or error} (`dicomd check-config` looks at each file)") from error
