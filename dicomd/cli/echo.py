"""`dicomd echo`: check that a DICOM peer can be reached and answers a C-ECHO."""

import time

import click

from dicomd.cli.options import fail, peer_options, version_option
from dicomd.cli.tls_options import TlsOptions, tls_options
from dicomd.statuses import Status
from dicomd.uids import VERIFICATION_SOP_CLASS


@click.command("echo")
@peer_options(timeout="10s")
@tls_options
@version_option
def echo(host: str, port: int, called: str, calling: str, timeout: float, tls: TlsOptions | None) -> None:
    """Send a C-ECHO to a DICOM peer.

    Exit status: 0 only if the peer answers with status 0x0000, else 1 with the reason on stderr.
    """
    from pynetdicom.presentation import build_context

    from dicomd.cli.requestor import AssociationFailedError, RemoteAE, Requestor, status_in_words

    peer = RemoteAE(host, port, called, calling, timeout, (tls.context(), tls.name or host) if tls else None)
    began = time.monotonic()
    try:
        with Requestor(peer, [build_context(VERIFICATION_SOP_CLASS)]) as requestor:
            answer = requestor.association.send_c_echo()
            if "Status" not in answer:
                fail(f"{peer}: {requestor.why_ended()}")
            status = answer.Status
    except AssociationFailedError as error:
        fail(str(error))
    if status != Status.SUCCESS:
        fail(f"{peer}: the echo was answered with {status_in_words(status)}")
    click.echo(f"{peer}: echo answered with 0x0000 (Success) in {(time.monotonic() - began) * 1000:.0f} ms")
