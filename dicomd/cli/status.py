"""`dicomd status`: show what the running daemon is doing, asked over its control socket."""

from pathlib import Path
from typing import Any

import click
import orjson

from dicomd import unready
from dicomd.cli.control import ask_daemon, daemon_folder
from dicomd.cli.options import config_option, version_option
from dicomd.formatting import format_bytes, format_elapsed
from dicomd.layouts import UNFILED


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as /status does.")
@config_option
@version_option
def status(as_json: bool, config_path: Path) -> None:
    """Show what the daemon is doing.

    Shows the open Associations, the counters since the start, the store's free space, the certificates, the last reload
    and the last refusals with their reasons. Works without the HTTP listener. Exit status: 0 when the daemon accepts
    instances, 3 when it runs but doesn't accept any, 1 when no daemon answers.
    """
    found = ask_daemon(config_path, {"command": "status"}, timeout=10)["status"] | _from_metrics(config_path)
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        click.echo(as_text(found))
    if not found["ready"]:
        raise SystemExit(3)


def _from_metrics(config_path: Path) -> dict[str, Any]:
    """Read peers and certificates from the daemon's metric files, if this user may."""
    from dicomd.monitoring.status import from_metrics
    from dicomd.supervisor.runtime_dir import METRICS

    try:
        return from_metrics(daemon_folder(config_path)[0] / METRICS)
    except OSError as error:
        click.echo(f"dicomd: can't read the metric files, so no peers and certificates: {error.strerror}", err=True)
        return {"peers": [], "certificates": []}


def as_text(found: dict[str, Any]) -> str:
    """Format the status for a terminal."""
    lines = [*_head(found), *_store(found), *_configuration(found), *_tables(found)]
    return "\n".join(lines)


def _head(found: dict[str, Any]) -> list[str]:
    counters, associations = found["counters"], found["associations"]
    reason = unready.shortened(str(found["reason"]))
    state = "accepting instances" if found["ready"] else f"not accepting instances: {reason}"
    return [
        _fact("dicomd", f"{found['version']}, up {format_elapsed(found['uptime_seconds'])}, {state}"),
        *(_fact(f"listener {name}", address) for name, address in (found["listeners"] or {}).items()),
        _fact("associations", f"{associations['open']} open of {associations['limit']} at most"),
        _fact(
            "since the start",
            f"{counters['instances']} instances stored ({format_bytes(counters['bytes'])} received), "
            f"{counters['failures']} refused; "
            f"{counters['associations']} Associations ended, {counters['rejected']} of them rejected",
        ),
    ]


def _store(found: dict[str, Any]) -> list[str]:
    store = found["store"]
    if "size_bytes" not in store:
        return [_fact("store", f"{store['root']}: {store['reason']}")]
    free, size = store["avail_bytes"], store["size_bytes"]
    share = f" ({free / size:.0%})" if size else ""
    lines = [
        _fact("store", f"{store['root']}: {format_bytes(free)} free of {format_bytes(size)}{share}"),
        _fact("", store["layout"]),
    ]
    if unfiled := found["counters"]["unfiled"]:
        lines.append(_fact("unfiled", f"{unfiled} since the start: look at what is in {store['root']}/{UNFILED}"))
    return lines


def _configuration(found: dict[str, Any]) -> list[str]:
    configuration = found["configuration"]
    last = configuration.get("last_reload") or {}
    lines = [_fact("configuration", f"{configuration.get('path')}, generation {found['generation']}")]
    if last.get("successful", True):
        lines.append(_fact("", f"in use since {last.get('time')}"))
    else:
        lines.append(_fact("", f"the last reload was rejected at {last['time']}: the previous one is in use"))
        lines += [_fact("", f"  {error}") for error in last.get("errors", ())]
    if pending := configuration.get("restart_pending"):
        lines.append(_fact("", f"needs a restart: {', '.join(pending)}"))
    if found["access_open"]:
        lines.append(_fact("access", "no peers are configured: every peer that can connect may store"))
    for certificate in found["certificates"]:
        lines.append(
            _fact(
                f"certificate {certificate['listener']}",
                f"{certificate['days']} days, until {certificate['not_after']}",
            )
        )
    return lines


def _tables(found: dict[str, Any]) -> list[str]:
    associations = found["associations"]
    lines = _table(
        ("WORKER", "PID", "STATE", "GENERATION", "CONNECTIONS", "ASSOCIATIONS"),
        [
            [str(w[k]) for k in ("worker", "pid", "state", "generation", "connections", "associations")]
            for w in found["workers"]
        ],
    )
    lines += _table(
        ("PEER", "CALLING", "CALLED", "ADDRESS", "AGE", "INSTANCES", "REFUSED", "SIZE"),
        [
            [
                *(str(row.get(key, "")) for key in ("peer", "calling_aet", "called_aet", "peer_address")),
                format_elapsed(row["age_seconds"]),
                str(row["instances"]),
                str(row["failures"]),
                format_bytes(row["bytes"]),
            ]
            for row in associations["listed"]
        ],
    )
    if associations["not_listed"]:
        lines.append(f"and {associations['not_listed']} more Associations")
    lines += _table(
        ("PEER", "LAST STORE", "INSTANCES", "FAILURES"),
        [
            [peer["peer"], peer["last_store"] or "never", str(peer["instances"]), str(peer["failures"])]
            for peer in found["peers"]
        ],
    )
    lines += _table(
        ("LAST REFUSED", "TIMES", "WHAT", "WHO", "WHY"),
        [
            [
                refusal["last"],
                str(refusal["count"]),
                refusal["refused"],
                " ".join(dict.fromkeys(filter(None, (refusal.get(key) for key in ("peer", "calling", "address"))))),
                "; ".join(filter(None, (refusal["why"], refusal.get("advice", "")))),
            ]
            for refusal in found["refusals"]
        ],
    )
    return lines


def _fact(name: str, text: str) -> str:
    return f"{name + ':' if name else '':<22}{text}"


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Lay out an empty line and columns as wide as their content; nothing if there are no rows."""
    if not rows:
        return []
    widths = [max(len(line[at]) for line in (heads, *rows)) for at in range(len(heads))]
    return [
        "",
        *("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in (heads, *rows)),
    ]
