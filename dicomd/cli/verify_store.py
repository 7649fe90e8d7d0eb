"""`dicomd verify-store`: re-read the whole store and list what is wrong with it."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dicomd.cli.options import config_option, fail, load_or_exit, version_option
from dicomd.formatting import format_bytes

if TYPE_CHECKING:
    from dicomd.store.verification import Finding


@click.command("verify-store")
@config_option
@version_option
def verify_store(config_path: Path) -> None:
    """Re-read the store and list what is wrong.

    Checks that every file below storage.root is a readable Part 10 file in the place that storage.layout gives it, that
    it still matches the checksum recorded when it was received, if there is one, and that no temporary file was left
    behind by a crash. What no file tells about its path (peer, date of reception) can't be checked. Of instances that
    were kept unfiled (storage.unfiled), only framing, name and checksum are checked, since their Data Sets may be
    anything. Nothing is changed, and dicomd may run meanwhile. Exit status: 0 if no problem was found, else 1 with a
    line for each problem.
    """
    from dicomd.layouts import NOT_IN_FILES
    from dicomd.store.layout import Layout
    from dicomd.store.verification import survey, verify

    storage = load_or_exit(config_path).storage
    root = storage.root.absolute()
    if not root.is_dir():
        fail(f"{root}: no such folder (storage.root)")
    layout = Layout(storage.layout)
    instances = compared = unfiled = size = problems = 0
    waiting: list[Finding] = []
    progress = (
        click.progressbar(length=survey(root), label=f"Reading {root}", file=sys.stderr)
        if sys.stderr.isatty()
        else contextlib.nullcontext()
    )
    with progress as bar:
        for finding in verify(root, layout):
            if finding.problem:
                problems += 1
                if bar is None:
                    _tell(finding)
                else:
                    waiting.append(finding)
            else:
                instances += 1
                compared += finding.compared
                unfiled += finding.unfiled
            size += finding.size
            if bar is not None:
                bar.update(finding.size)
    for finding in waiting:
        _tell(finding)
    apart = f", {unfiled} of them unfiled" if unfiled else ""
    click.echo(
        f"{root}: {instances} instances OK, {compared} of them by checksum{apart}; "
        f"{problems} problem{'' if problems == 1 else 's'} ({format_bytes(size)} read)"
    )
    if unchecked := [f"{{{name}}}" for name in NOT_IN_FILES if name in layout.placeholders]:
        click.echo(f"Not checked, as files don't tell them: {' and '.join(unchecked)}")
    if problems:
        sys.exit(1)


def _tell(finding: "Finding") -> None:
    path = finding.path if finding.path.isprintable() else ascii(finding.path)
    click.echo(f"{path}: {finding.problem} ({finding.advice})")
