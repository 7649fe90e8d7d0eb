"""The daemon's status as one JSON object, for `dicomd status`, /status and the status page.

The process that was asked builds it from shared memory, in microseconds and without asking a worker. Invariant: it
contains no patient data, since none is ever written to that memory.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import dicomd
from dicomd.formatting import format_time
from dicomd.ipc import metric_files
from dicomd.ipc.shared_state import SharedState

MAX_ASSOCIATIONS: Final = 1000
"""The most open Associations that are listed; all of them are counted."""
_DAY: Final = 86400.0
_HISTORY: Final = 300
"""Samples of the counters, one per second, from which rates are computed."""
_STEP: Final = 5
"""Samples for one point of the curve."""

JsonObject = dict[str, Any]


def status(shared_state: SharedState, began: float) -> JsonObject:
    """Return the daemon's present status; `began` is when it started, on the monotonic clock."""
    reason = shared_state.unready()
    supervisor: JsonObject = dict(shared_state.status.supervisor() or {})
    workers = shared_state.describe()
    return {
        "version": dicomd.__version__,
        "uptime_seconds": int(time.monotonic() - began),
        "ready": not reason,
        "reason": reason,
        "generation": shared_state.generation,
        "maintenance": shared_state.maintenance,
        "stopping": shared_state.stopping,
        **{key: supervisor.get(key) for key in ("listeners", "http", "access_open")},
        "configuration": _configuration(supervisor),
        "workers": workers,
        "associations": _associations(shared_state, supervisor),
        "counters": shared_state.status.associations.counted(shared_state.slots()),
        "store": _store(shared_state, supervisor),
        "refusals": [_dated(refusal) for refusal in shared_state.status.refusals.newest()],
    }


def from_metrics(folder: Path) -> JsonObject:
    """Return what only the metric files contain: each peer's figures, and when certificates expire. Raises OSError."""
    peers: dict[str, dict[str, Any]] = {}
    certificates = []
    now = time.time()
    for metric in metric_files.merged(folder):
        for sample in metric.samples:
            peer = sample.labels.get("peer", "")
            if sample.name == "dicomd_peer_instances_total":
                peers.setdefault(peer, _new_peer())["instances"] = int(sample.value)
            elif sample.name == "dicomd_peer_failures_total":
                peers.setdefault(peer, _new_peer())["failures"] += int(sample.value)
            elif sample.name == "dicomd_peer_last_store_timestamp_seconds":
                peers.setdefault(peer, _new_peer())["last_store"] = format_time(sample.value)
            elif sample.name == "dicomd_tls_certificate_not_after_timestamp_seconds":
                days = int((sample.value - now) // _DAY)
                listener = sample.labels.get("listener", "")
                certificates.append({"listener": listener, "not_after": format_time(sample.value), "days": days})
    ordered = sorted(peers.items(), key=lambda item: (item[1]["last_store"] or "", item[0]), reverse=True)
    return {
        "peers": [{"peer": name} | figures for name, figures in ordered],
        "certificates": sorted(certificates, key=lambda certificate: certificate["days"]),
    }


class Pace:
    """The rates of the last five minutes, from counters that are sampled once a second."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque(maxlen=_HISTORY + 1)

    def look(self, shared_state: SharedState) -> None:
        """Take a sample of the counters."""
        self._seen.append((time.monotonic(), shared_state.status.associations.counted(shared_state.slots())))

    def rates(self, seconds: int) -> dict[str, float]:
        """Return each counter's rate per second over the last `seconds`; empty until there are two samples."""
        seen = list(self._seen)[-(seconds + 1) :]
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return {}
        (began, first), (ended, last) = seen[0], seen[-1]
        return {name: round((last[name] - first[name]) / (ended - began), 3) for name in last}

    def history(self, name: str) -> list[float]:
        """Return one counter's rate per second, averaged over every `_STEP` samples, the oldest first."""
        seen = list(self._seen)[::-1][::_STEP][::-1]
        return [
            (last[name] - first[name]) / (ended - began)
            for (began, first), (ended, last) in pairwise(seen)
            if ended > began
        ]


def _new_peer() -> dict[str, Any]:
    return {"instances": 0, "failures": 0, "last_store": None}


def _configuration(supervisor: JsonObject) -> JsonObject:
    found: JsonObject = supervisor.get("configuration", {})
    last = found.get("last_reload")
    return found | {"last_reload": last | {"time": format_time(last["time"])}} if last else found


def _associations(shared_state: SharedState, supervisor: JsonObject) -> JsonObject:
    rows = [
        {"worker": str(slot)} | row
        for slot in shared_state.slots()
        for row in shared_state.status.associations.open_associations(slot)
    ]
    rows.sort(key=lambda row: -row["age_seconds"])
    count = shared_state.total_associations()
    return {
        "open": count,
        "limit": supervisor.get("associations_limit"),
        "listed": rows[:MAX_ASSOCIATIONS],
        "not_listed": max(0, count - min(len(rows), MAX_ASSOCIATIONS)),
    }


def _store(shared_state: SharedState, supervisor: JsonObject) -> JsonObject:
    reason = shared_state.store_reason()
    first = shared_state.first_ready()
    measured = shared_state.status.associations.measured(first) if first >= 0 else {}
    return {
        "accepting": reason == "",
        "reason": reason,
        "root": supervisor.get("root"),
        "layout": supervisor.get("layout"),
        "reserve_bytes": supervisor.get("reserve_bytes"),
        **measured,
    }


def _dated(refusal: dict[str, Any]) -> dict[str, Any]:
    return refusal | {"first": format_time(refusal["first"]), "last": format_time(refusal["last"])}
