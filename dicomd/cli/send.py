"""`dicomd send`: send files and folders by C-STORE, for trying out an installation without other tools."""

import contextlib
import sys
import time
from pathlib import Path

import click

from dicomd.cli.options import fail, peer_options, version_option
from dicomd.cli.tls_options import TlsOptions, tls_options
from dicomd.formatting import format_bytes


@click.command("send")
@peer_options(timeout="60s")
@tls_options
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@version_option
def send(
    host: str,
    port: int,
    called: str,
    calling: str,
    timeout: float,
    paths: tuple[Path, ...],
    tls: TlsOptions | None,
) -> None:
    """Send DICOM files to a peer (C-STORE).

    If FILE is a folder, everything below it is sent. Files that aren't DICOM are skipped with a message. Data Sets are
    sent byte for byte as they are in the files, under the UIDs in them. A file without preamble or File Meta
    Information is sent if its first bytes show its encoding. Exit status: 0 if all were stored, else 1.
    """
    from dicomd.cli.files import InstanceFile, Skipped, find
    from dicomd.cli.requestor import RemoteAE
    from dicomd.cli.storing import SendResult, store_all

    secured = (tls.context(), tls.name or host) if tls else None  # first, so that a bad option fails early
    files: list[InstanceFile] = []
    failed = 0
    for found in find(paths):
        if isinstance(found, Skipped):
            failed += found.broken
            click.echo(f"{'failed' if found.broken else 'skipped'}: {found.path}: {found.why}", err=True)
        else:
            files.append(found)
    if not files:
        fail("nothing to send")

    peer = RemoteAE(host, port, called, calling, timeout, secured)
    stored = stored_bytes = warned = 0
    problems: list[SendResult] = []
    began = time.monotonic()
    progress = (
        click.progressbar(length=sum(file.size for file in files), label=f"Sending to {peer}", file=sys.stderr)
        if sys.stderr.isatty()
        else contextlib.nullcontext()
    )
    with progress as bar:
        for result in store_all(peer, files):
            stored += result.stored
            stored_bytes += result.file.size if result.stored else 0
            warned += result.stored and bool(result.why)
            if result.why:
                problems.append(result)
            if bar is not None:
                bar.update(result.file.size)
    seconds = time.monotonic() - began
    for result in problems:
        click.echo(f"{'warning' if result.stored else 'failed'}: {result.file.path}: {result.why}", err=True)
    failed += len(files) - stored
    summary = f"{peer}: {stored} stored ({format_bytes(stored_bytes)} in {seconds:.1f} s)"
    click.echo(summary + (f", {warned} with a warning" if warned else "") + f", {failed} failed")
    if failed:
        sys.exit(1)
