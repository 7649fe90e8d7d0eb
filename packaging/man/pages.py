"""Writes dicomd(8) and dicomd.toml(5): python packaging/man/pages.py FOLDER.

What a command or a key does is read from the program itself (the help texts, the configuration reference), so that it
can't diverge. Only what no help text can say (signals, files, exit statuses of the whole) is written here.
"""

# ruff: noqa: INP001 - a program, not a package

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from dicomd import __version__
from dicomd.cli.main import main
from dicomd.config.describe import as_markdown

_FILES = """\
.SH SIGNALS
.TP
SIGTERM, SIGINT
Stop: new Associations are refused, open ones may end within
.BR dicomd.drain_timeout .
A second signal aborts them at once.
.TP
SIGHUP
Read the configuration again, as
.B systemctl reload dicomd
does after checking it.
An invalid file changes nothing.
.SH EXIT STATUS
.TP
0
Success; of
.BR serve :
a stop by a signal.
.TP
1
The command failed; the reason is on standard error.
.TP
2
The command line is wrong.
.TP
78
The configuration is wrong (EX_CONFIG); every error is on standard error.
.SH FILES
.TP
.I /etc/dicomd/dicomd.toml
The configuration; see
.BR dicomd.toml (5).
.TP
.I /var/lib/dicomd/store
Stored instances, unless
.B storage.root
names another folder.
Removing or purging the package leaves them.
.SH GROUPS
Of the Debian package:
.TP
.B dicomd\\-read
reads the stored instances, and nothing else.
.TP
.B dicomd
uses the control socket (status, reload, maintenance), and reads the TLS key and the audit spool.
.SH SEE ALSO
.BR dicomd.toml (5),
.BR systemctl (1),
.BR journalctl (1)
.PP
PS3.4 Annex B (Storage Service Class), PS3.7 (DIMSE), PS3.8 (Upper Layer) of the DICOM standard;
the Conformance Statement in
.IR /usr/share/doc/dicomd .
"""

_EXAMPLE = """\
.SH EXAMPLE
.EX
[dicomd]
ae_titles = ["ARCHIVE"]

[[listen]]
name = "dicom"
address = "0.0.0.0:11112"

[storage]
duplicates = "reject"
.EE
.SH FILES
.I /etc/dicomd/dicomd.toml
.SH SEE ALSO
.BR dicomd (8)
"""


def roff(text: str) -> str:
    """Escape everything in the text that roff would interpret as a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def from_markdown(text: str) -> str:
    """Convert a paragraph or a cell: code in bold, emphasis in italics."""
    parts = re.split(r"(`[^`]+`|\*[^*]+\*)", text.replace("\\|", "|"))
    fonts = {"`": "B", "*": "I"}
    return "".join(f"\\f{fonts[part[0]]}{roff(part[1:-1])}\\fR" if part[:1] in fonts else roff(part) for part in parts)


def program() -> str:
    """Return dicomd(8)."""
    context = click.Context(main, info_name="dicomd", **main.context_settings)
    summary = (main.help or "").strip().rstrip(".")
    lines = [
        f'.TH DICOMD 8 "" "dicomd {__version__}" "System Administration"',
        ".SH NAME",
        f"dicomd \\- {roff(summary[0].lower() + summary[1:] if summary.startswith('A ') else summary)}",
        ".SH SYNOPSIS",
        "\\fBdicomd\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        "dicomd receives DICOM objects by C\\-STORE and stores each as a file, byte for byte as it was sent.",
        "It answers success when the object is safe on disk, not before.",
        "Start it as a service with",
        '.BR "systemctl start dicomd" ,',
        "and read its log with",
        '.BR "journalctl \\-u dicomd" ;',
        ".B journalctl \\-x",
        "explains the messages.",
        ".SH OPTIONS",
        *_options(main, context),
        ".SH COMMANDS",
    ]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is not None and not command.hidden:
            lines += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(lines) + "\n" + _FILES


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(f"\\fI{roff(piece)}\\fR" for piece in command.collect_usage_pieces(context))
    yield f".SS \\fBdicomd {roff(context.info_name or '')}\\fR {usage}"
    for number, paragraph in enumerate(re.split(r"\n\s*\n", (command.help or "").strip())):
        if number:
            yield ".PP"
        yield from_markdown(" ".join(paragraph.replace("\b", "").split()))
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _command(
                    inner, click.Context(inner, info_name=f"{context.info_name} {name}", parent=context)
                )


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        everywhere = {"--help", "--version"} & set(parameter.opts)
        if record and (record[1] or not isinstance(parameter, click.Argument)) and (command is main or not everywhere):
            yield ".TP"
            yield f"\\fB{roff(record[0])}\\fR"
            yield roff(" ".join(record[1].split())) or "\\&"


def configuration() -> str:
    """Return dicomd.toml(5), from the reference in Markdown: one section per table, one entry per row."""
    lines = [
        f'.TH DICOMD.TOML 5 "" "dicomd {__version__}" "File Formats"',
        ".SH NAME",
        "dicomd.toml \\- configuration of dicomd",
        ".SH DESCRIPTION",
    ]
    for block in as_markdown().strip().split("\n\n"):
        if block.startswith("## "):
            lines.append(f".SH {roff(block[3:].strip('`'))}")
        elif block.startswith("|"):
            for row in block.splitlines()[2:]:
                lines += _entry(*(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]))
        elif not block.startswith(("# ", "<!--")):
            lines += [".PP", from_markdown(block)]
    return "\n".join(lines) + "\n" + _EXAMPLE


def _entry(key: str, kind: str, default: str, reload: str, doc: str) -> Iterator[str]:
    at_reload = "a reload applies it" if reload == "yes" else "needs a restart"
    meaning = default if default == "required" or default.startswith("unset") else f"default {default}"
    yield ".TP"
    yield f"{from_markdown(key)} ({from_markdown(kind)}; {from_markdown(meaning)}; {at_reload})"
    yield from_markdown(doc)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dicomd.8").write_text(program(), encoding="utf-8")
    (folder / "dicomd.toml.5").write_text(configuration(), encoding="utf-8")
