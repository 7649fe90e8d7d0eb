"""The status page: what /status says, for a person with a browser.

The rule it keeps: it is one document without a script, a font or a picture from anywhere, and whatever a stranger
chose, such as an AE Title, is escaped. It says in words what a colour says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

from dicomd.formatting import format_bytes, format_elapsed
from dicomd.monitoring.style import STYLE

REFRESH: Final = 5  # seconds
_WIDTH, _HEIGHT = 240, 36  # of a curve, in units of its own
_FOOT = (
    '<p class="foot">This page is new every five seconds. The same as JSON: <a href="/status">/status</a>. For '
    'Prometheus: <a href="/metrics">/metrics</a>. Times are UTC.</p>'
)
Status = dict[str, Any]


def render(status: Status, history: Sequence[float], host: str) -> str:
    """The page, from what /status says; `history` is images a second, the oldest first."""
    body = "".join(
        (
            _head(status, host),
            _tiles(status, history),
            '<div class="columns"><div>',
            _associations(status),
            _refusals(status),
            _workers(status),
            "</div><div>",
            _peers(status),
            _store(status),
            _configuration(status),
            _certificates(status),
            "</div></div>",
            _FOOT,
        )
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dicomd on {_text(host)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{REFRESH}">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _head(status: Status, host: str) -> str:
    if status["ready"]:
        state, word = "good", "takes images"
    elif status["maintenance"]:
        state, word = "fair", "in maintenance"
    else:
        state, word = "bad", "takes no images"
    told = [] if status["ready"] else [_text(status["reason"])]
    if not _last_reload(status).get("successful", True):
        told.append("The last reload was rejected: the configuration before it is still in use.")
    reason = "".join(f'<p class="reason">{text}</p>' for text in told)
    return (
        f'<header><h1>dicomd <span>on {_text(host)}</span></h1><p class="pill {state}" id="state">{word}</p>'
        f'<p class="quiet">version {_text(status["version"])} · up {format_elapsed(status["uptime_seconds"])} · '
        f"generation {status['generation']}</p></header>{reason}"
    )


def _tiles(status: Status, history: Sequence[float]) -> str:
    counters, associations, store = status["counters"], status["associations"], status["store"]
    rates = status["rates"]["10s"]
    limit = associations["limit"]
    size = store.get("size_bytes") or 0
    left = store.get("avail_bytes", 0) / size if size else None
    tiles = (
        ("Images a second", f"{rates.get('instances', 0.0):,.1f}", "over the last 10 s" + _curve(history)),
        (
            "Received",
            f"{format_bytes(rates.get('bytes', 0.0))}/s",
            f"{format_bytes(counters['bytes'])} since the start",
        ),
        ("Open Associations", f"{associations['open']:,}", f"of {limit:,} at most" if limit else ""),
        ("Images stored", f"{counters['instances']:,}", f"{counters['associations']:,} Associations ended"),
        ("Refused", f"{counters['failures']:,}", f"images; {counters['rejected']:,} Associations"),
        (
            "Space left",
            "unknown" if left is None else f"{left:.0%}",
            f"{format_bytes(store.get('avail_bytes', 0))} free",
        ),
    )
    return (
        '<section class="tiles">'
        + "".join(
            f'<div class="tile"><h2>{title}</h2><p class="number">{number}</p><p class="quiet">{below}</p></div>'
            for title, number, below in tiles
        )
        + "</section>"
    )


def _associations(status: Status) -> str:
    found = status["associations"]
    rows = [
        (
            _text(row.get("peer", "")),
            f"<code>{_text(row.get('calling_aet', ''))}</code> → <code>{_text(row.get('called_aet', ''))}</code>",
            _text(row.get("peer_address", "")),
            format_elapsed(row["age_seconds"]),
            f"{row['instances']:,}"
            + (f' <span class="bad">+ {row["failures"]:,} refused</span>' * bool(row["failures"])),
            format_bytes(row["bytes"]),
        )
        for row in found["listed"][:50]
    ]
    more = found["open"] - len(rows)
    heads = ("Peer", "Calling → called AE Title", "Address", "For", "#Images", "#Size")
    return _section(
        "Open Associations", heads, rows, "No Association is open.", f"and {more:,} more" if more > 0 else ""
    )


def _refusals(status: Status) -> str:
    rows = [
        (
            f"{_time(refusal['last'])}" + (f"<br>{refusal['count']:,} times" if refusal["count"] > 1 else ""),
            _who(refusal),
            _text(refusal["refused"]),
            f"{_text(refusal['why'])}" + (f"<br><b>{_text(refusal['advice'])}</b>" if refusal.get("advice") else ""),
        )
        for refusal in status["refusals"]
    ]
    return _section("Last refusals", ("Last", "Who", "What", "Why, and what to change"), rows, "Nothing was refused.")


def _who(refusal: Status) -> str:
    names = [_text(refusal[key]) for key in ("peer", "address") if refusal.get(key, "unknown") != "unknown"]
    if calling := refusal.get("calling"):
        names.insert(0, f"<code>{_text(calling)}</code>")
    return "<br>".join(names)


def _peers(status: Status) -> str:
    rows = [
        (
            _text(peer["peer"]),
            _time(peer["last_store"]) if peer["last_store"] else "never",
            f"{peer['instances']:,}",
            f"{peer['failures']:,}",
        )
        for peer in status.get("peers", ())
    ]
    note = "No peers are configured: every peer that can connect may store." if status["access_open"] else ""
    return _section(
        "Last stores by peer", ("Peer", "Last store", "#Images", "#Failures"), rows, "No peer is known.", note
    )


def _store(status: Status) -> str:
    store = status["store"]
    size, left = store.get("size_bytes") or 0, store.get("avail_bytes", 0)
    share = 100 * (1 - left / size) if size else 0.0
    low = size and left < 2 * (store.get("reserve_bytes") or 0)
    rows = [
        ("Takes images", "yes" if store["accepting"] else f'<span class="bad">no: {_text(store["reason"])}</span>'),
        ("Where", f"<code>{_text(store['root'] or '')}</code>"),
        ("Free", f"{format_bytes(left)} of {format_bytes(size)}" + _bar(share, bad=bool(low))),
        ("Kept free", format_bytes(store.get("reserve_bytes") or 0)),
        ("Files it has room for", f"{store.get('files_avail', 0):,}"),
    ]
    return _facts("Store", rows)


def _configuration(status: Status) -> str:
    configuration = status["configuration"]
    last = _last_reload(status)
    when = f" at {_time(last['time'])}" if last.get("time") else ""
    if last.get("successful", True):
        state = f"in use{when and ' since' + when.removeprefix(' at')}"
    else:
        errors = "".join(f"<li>{_text(error)}</li>" for error in last.get("errors", ()))
        state = f'<span class="bad">the last reload was rejected{when}</span><ul>{errors}</ul>'
    rows = [("File", f"<code>{_text(configuration.get('path', ''))}</code>"), ("State", state)]
    if pending := configuration.get("restart_pending"):
        rows.append(("Needs a restart", '<span class="fair">' + ", ".join(_text(key) for key in pending) + "</span>"))
    listeners = (status["listeners"] or {}).items()
    rows += [(f"Listener {_text(name)}", f"<code>{_text(address)}</code>") for name, address in listeners]
    return _facts("Configuration", rows)


def _last_reload(status: Status) -> Status:
    return status["configuration"].get("last_reload") or {}


def _certificates(status: Status) -> str:
    rows = [
        (
            _text(certificate["listener"]),
            f'<span class="{"bad" if certificate["days"] < 14 else "plain"}">{certificate["days"]:,} days</span>',
            _time(certificate["not_after"]),
        )
        for certificate in status.get("certificates", ())
    ]
    return _section("Certificates", ("Listener", "Ends in", "Ends"), rows, "No listener speaks TLS.")


def _workers(status: Status) -> str:
    rows = [
        (
            _text(worker["worker"]),
            _text(worker["state"]),
            str(worker["generation"]),
            str(worker["pid"]),
            f"{worker['associations']:,}",
        )
        for worker in status["workers"]
    ]
    heads = ("Worker", "State", "Generation", "PID", "#Associations")
    return _section("Workers", heads, rows, "No worker is there.")


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], nothing: str, note: str = "") -> str:
    rows = list(rows)
    classes = ["number" if head.startswith("#") else "" for head in heads]
    head = "".join(f'<th class="{c}">{h.removeprefix("#")}</th>' for h, c in zip(heads, classes, strict=True))
    lines = "".join(
        "<tr>" + "".join(f'<td class="{c}">{cell}</td>' for cell, c in zip(row, classes, strict=True)) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>" if rows else ""
    words = " ".join(text for text in ("" if rows else nothing, note) if text)
    name = title.lower().replace(" ", "-")
    return (
        f'<section id="{name}"><h2>{title}</h2>{table}'
        + (f'<p class="quiet">{words}</p>' if words else "")
        + "</section>"
    )


def _facts(title: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return (
        f'<section id="{title.lower()}"><h2>{title}</h2><table class="facts"><tbody>{lines}</tbody></table></section>'
    )


def _curve(values: Sequence[float]) -> str:
    """A line of the last minutes; its highest point is as high as it goes."""
    if len(values) < 2 or not (top := max(values)):
        return ""
    step = _WIDTH / (len(values) - 1)
    points = " ".join(
        f"{at * step:.1f},{_HEIGHT - 2 - value / top * (_HEIGHT - 4):.1f}" for at, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="the last five minutes, {top:,.1f} at most"><polyline points="{points}"/></svg>'
    )


def _bar(percent: float, *, bad: bool) -> str:
    return (
        f'<svg class="bar {"bad" if bad else ""}" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" '
        f'aria-label="{percent:.0f} % used"><rect class="all" width="100" height="4"/>'
        f'<rect width="{max(0.0, min(100.0, percent)):.1f}" height="4"/></svg>'
    )


def _time(rfc3339: str) -> str:
    date, _, clock = rfc3339.partition("T")
    return f'<time datetime="{escape(rfc3339)}">{escape(date)} {escape(clock.removesuffix("Z"))}</time>'


def _text(value: Any) -> str:
    return escape(str(value))
