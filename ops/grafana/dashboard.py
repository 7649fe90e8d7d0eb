"""Writes dashboard.json, which Grafana provisions or imports: `python ops/grafana/dashboard.py`, then commit both.

The rule: every panel says in plain words what it shows and what is normal, for a reader who has never seen DICOM, and
asks for dicomd's metrics directly, so that the dashboard works without the recording rules. The schema is that of the
grafana-foundation-sdk pinned among the development tools; a test runs this and compares.
"""
# ruff: noqa: INP001 - a program beside what it writes, not a package

from __future__ import annotations

from pathlib import Path

from charts import AMBER, CHOSEN, GREEN, RED, SOURCE, Query, graph, hourly, number, quantiles, rate
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

OUTPUT = Path(__file__).with_suffix(".json")
FAILED = 'command="C-STORE-RSP",status!~"0000|B.*"'  # neither success nor a warning


def main() -> None:
    """Write the dashboard."""
    OUTPUT.write_text(render())


def render() -> str:
    """Return the dashboard as JSON, panels numbered in the order in which they are read."""
    dashboard = (
        build.Dashboard("dicomd")
        .uid("dicomd")
        .description("Whether images arrive, from whom, how fast, and why one was refused.")
        .tags(["dicomd", "DICOM"])
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            build.QueryVariable("instance")
            .label("dicomd")
            .description("Which dicomd, where there are several")
            .datasource(SOURCE)
            .query("label_values(dicomd_build_info, instance)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(model.VariableOption(selected=True, text="All", value="$__all"))
        )
    )
    for title, panels in (
        ("Now", _now()),
        ("Images", _images()),
        ("Associations", _associations()),
        ("Peers", _peers()),
        ("Store", _store()),
        ("Process", _process()),
    ):
        dashboard.with_row(build.Row(title))
        for panel in panels:
            dashboard.with_panel(panel)
    built = dashboard.build()
    for place, made in enumerate(built.panels or (), start=1):
        made.id_val = place
    return JSONEncoder(indent=2, sort_keys=True).encode(built) + "\n"


def _now() -> list[stat.Panel]:
    return [
        number(
            "Takes images",
            "Yes while the store takes instances. No: it is full, missing or broken; senders are refused and retry.",
            f"min(dicomd_store_accepting{{{CHOSEN}}})",
            words={0: ("no", RED), 1: ("yes", GREEN)},
        ),
        number(
            "Images a second",
            "SOP Instances stored; an image of a CT series is one.",
            f"sum(rate(dicomd_instances_stored_total{{{CHOSEN}}}[$__rate_interval]))",
            trend=True,
        ),
        number(
            "Failed stores",
            "The share of C-STOREs answered with a failure. Normal: 0. DicomdStoreFailing fires above 5 %.",
            f"sum(rate(dicomd_dimse_responses_total{{{CHOSEN},{FAILED}}}[$__range]))"
            f' / sum(rate(dicomd_dimse_responses_total{{{CHOSEN},command="C-STORE-RSP"}}[$__range]))',
            unit="percentunit",
            steps=((GREEN, None), (AMBER, 0.001), (RED, 0.05)),
            nothing="no stores",
        ),
        number(
            "Space left",
            "Of the store's file system. dicomd refuses instances below storage.reserve_free.",
            f"min(dicomd_store_avail_bytes{{{CHOSEN}}} / dicomd_store_size_bytes{{{CHOSEN}}})",
            unit="percentunit",
            steps=((RED, None), (AMBER, 0.10), (GREEN, 0.30)),
        ),
        number(
            "Space lasts for",
            "At the pace of the last six hours. Nothing is shown while space isn't shrinking.",
            f"min(dicomd_store_avail_bytes{{{CHOSEN}}} / -(deriv(dicomd_store_avail_bytes{{{CHOSEN}}}[6h]) < 0))",
            unit="s",
            steps=((RED, None), (AMBER, 86400), (GREEN, 7 * 86400)),
            nothing="not shrinking",
        ),
        number(
            "Associations of their limit",
            "Open DICOM connections as a share of limits.associations; at 100 % new ones are refused.",
            f"max(sum by (instance) (dicomd_associations_active{{{CHOSEN}}})"
            f" / max by (instance) (dicomd_associations_limit{{{CHOSEN}}}))",
            unit="percentunit",
            steps=((GREEN, None), (AMBER, 0.7), (RED, 0.9)),
        ),
        number(
            "Configuration",
            "Whether the file as last read is in use. Rejected: the one before it still is.",
            f"min(dicomd_config_last_reload_successful{{{CHOSEN}}})",
            words={0: ("rejected", RED), 1: ("in use", GREEN)},
        ),
        number(
            "Restart needed",
            "Whether the configuration has changes that only a restart applies.",
            f"max(dicomd_config_restart_pending{{{CHOSEN}}})",
            words={0: ("no", GREEN), 1: ("yes", AMBER)},
        ),
        number(
            "Who may store",
            "Anybody: no peers are configured, and whoever can connect may store.",
            f"max(dicomd_access_open{{{CHOSEN}}})",
            words={0: ("configured peers", GREEN), 1: ("anybody", AMBER)},
        ),
        number(
            "Certificate ends in",
            "Of the TLS listener whose certificate ends first.",
            f"min(dicomd_tls_certificate_not_after_timestamp_seconds{{{CHOSEN}}} - time())",
            unit="s",
            steps=((RED, None), (AMBER, 86400), (GREEN, 14 * 86400)),
            nothing="no TLS",
        ),
        number(
            "Up for",
            "Since the last start; the shortest, where there are several.",
            f"min(time() - dicomd_start_time_seconds{{{CHOSEN}}})",
            unit="s",
        ),
        number(
            "Version",
            "Of dicomd and its Python.",
            f"max by (version, python) (dicomd_build_info{{{CHOSEN}}})",
            legend="{{version}} · Python {{python}}",
        ),
    ]


def _images() -> list[timeseries.Panel]:
    return [
        graph(
            "Images stored",
            "SOP Instances stored a second.",
            "ops",
            rate("dicomd_instances_stored_total", "instance"),
        ),
        graph(
            "Bytes received",
            "Data Sets received a second, of refused and incomplete instances too.",
            "Bps",
            rate("dicomd_store_received_bytes_total", "instance"),
        ),
        graph(
            "Failed stores by status",
            "Refused C-STOREs a second, by the status that the sender was given. A7xx: here (A700 space, A701 disk, "
            "A703 memory, A710 too large). A900, C0xx and 01xx: the object or its sender. C211: a bug in dicomd.",
            "ops",
            Query(
                f"sum by (status) (rate(dicomd_dimse_responses_total{{{CHOSEN},{FAILED}}}[$__rate_interval]))",
                "{{status}}",
            ),
            stacked=True,
        ),
        graph(
            "Requests answered",
            "DIMSE responses a second. C-STORE brings an image, C-ECHO only asks whether anybody is there.",
            "ops",
            rate("dicomd_dimse_responses_total", "command"),
        ),
        graph(
            "How long a store takes",
            "From a C-STORE request to its response, the sender's pace included: half, 95 % and 99 % are quicker.",
            "s",
            *quantiles("dicomd_store_duration_seconds", 0.5, 0.95, 0.99),
        ),
        graph(
            "How long the disk takes",
            "Syncing one instance to the disk. If this rises with the panel to the left, the disk is slow; "
            "if it doesn't, the senders or the network are.",
            "s",
            *quantiles("dicomd_store_sync_duration_seconds", 0.5, 0.95, 0.99),
        ),
        graph(
            "Size of an image",
            "Of stored instances: half and 95 % are smaller.",
            "bytes",
            *quantiles("dicomd_store_instance_size_bytes", 0.5, 0.95),
        ),
        graph(
            "Seen before",
            "Instances a second that were there already. identical: sent again, nothing to do. Others: the same UID "
            "with other bytes, treated as storage.duplicates says.",
            "ops",
            rate("dicomd_store_duplicates_total", "result"),
        ),
        graph(
            "Store errors",
            "Failed operations of the store a second, with the operating system's reason. Normal: none.",
            "ops",
            rate("dicomd_store_errors_total", "operation", "errno"),
        ),
    ]


def _associations() -> list[timeseries.Panel]:
    return [
        graph(
            "Open Associations",
            "DICOM connections that are open, by listener, and how many may be.",
            "short",
            Query(f"sum by (instance, listener) (dicomd_associations_active{{{CHOSEN}}})", "{{instance}} {{listener}}"),
            Query(f"max by (instance) (dicomd_associations_limit{{{CHOSEN}}})", "{{instance}} limit"),
        ),
        graph(
            "How Associations end",
            "Associations ended a second. released is the regular end; aborted_by_peer and connection_lost are the "
            "sender's or the network's doing, aborted_locally: it broke the rules; timed_out: it fell silent.",
            "ops",
            rate("dicomd_associations_total", "outcome"),
            stacked=True,
        ),
        graph(
            "How long Associations last",
            "From the request to the end of the connection.",
            "s",
            *quantiles("dicomd_association_duration_seconds", 0.5, 0.95),
        ),
        graph(
            "Rejected Associations",
            "A second, by the codes of PS3.8 Table 9-21: 1/3 unknown Calling AE Title, 1/7 unknown Called AE Title, "
            "3/1 not ready or stopping, 3/2 at a limit. The log says of each what would let it in.",
            "ops",
            Query(
                f"sum by (source, reason) (rate(dicomd_associations_rejected_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{source}}/{{reason}}",
            ),
        ),
        graph(
            "Aborts",
            "A-ABORT sent and received a second, by the codes of PS3.8 Table 9-26 (0: the program, 2: its protocol).",
            "ops",
            Query(
                f"sum by (direction, source, reason) (rate(dicomd_aborts_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{direction}} {{source}}/{{reason}}",
            ),
        ),
        graph(
            "TCP connections",
            "Accepted a second, by listener; many more than Associations are probes or scanners.",
            "ops",
            rate("dicomd_connections_total", "listener"),
        ),
        graph(
            "TLS handshakes",
            "A second, by result. Failures: a wrong or ended certificate, an old protocol, or a scanner.",
            "ops",
            rate("dicomd_tls_handshakes_total", "listener", "result"),
        ),
    ]


def _peers() -> list[timeseries.Panel]:
    return [
        graph(
            "Images by peer",
            "SOP Instances stored a second, by configured peer; unknown are all others.",
            "ops",
            rate("dicomd_peer_instances_total", "peer"),
            stacked=True,
        ),
        graph(
            "Failures by peer",
            "Associations that didn't end well and refused instances, a second.",
            "ops",
            rate("dicomd_peer_failures_total", "peer", "reason"),
        ),
        graph(
            "Refused by rule",
            'By key of the configuration, a second; audit counts those let in whom "enforce" would refuse.',
            "ops",
            rate("dicomd_access_refusals_total", "rule", "mode"),
        ),
        graph(
            "Limits reached",
            "How often each limit held somebody up, a second.",
            "ops",
            rate("dicomd_limit_hits_total", "limit"),
        ),
        graph(
            "Silence of a peer",
            "Time since it last stored an instance; absent until it has stored one.",
            "s",
            Query(
                f"time() - max by (peer) (dicomd_peer_last_store_timestamp_seconds{{{CHOSEN}}})",
                "{{peer}}",
            ),
        ),
    ]


def _store() -> list[timeseries.Panel]:
    return [
        graph(
            "Space",
            "What the store may still use, and the size of its file system.",
            "bytes",
            Query(f"dicomd_store_avail_bytes{{{CHOSEN}}}", "{{instance}} available"),
            Query(f"dicomd_store_size_bytes{{{CHOSEN}}}", "{{instance}} size"),
        ),
        graph(
            "Inodes left",
            "Files that the store's file system can still hold; 0 where it has no such limit.",
            "short",
            Query(f"dicomd_store_files_avail{{{CHOSEN}}}", "{{instance}}"),
        ),
        graph(
            "Recovered files",
            "Temporary files of a crash that were dealt with at a start.",
            "short",
            Query(
                f"sum by (instance, action) (dicomd_store_recovered_files_total{{{CHOSEN}}})", "{{instance}} {{action}}"
            ),
        ),
    ]


def _process() -> list[timeseries.Panel]:
    return [
        graph(
            "Workers",
            "Processes that serve Associations, by state.",
            "short",
            Query(f"sum by (instance, state) (dicomd_workers{{{CHOSEN}}})", "{{instance}} {{state}}"),
        ),
        graph(
            "Workers that ended",
            "In the last hour. drained: after a reload or at a stop. Others should not be.",
            "short",
            hourly("dicomd_worker_exits_total", "instance", "reason"),
        ),
        graph(
            "Memory",
            "Resident memory of each worker. It doesn't grow with the size of an image.",
            "bytes",
            Query(f"dicomd_worker_resident_memory_bytes{{{CHOSEN}}}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Open file descriptors",
            "Of each worker: one an Association and one an image in transit.",
            "short",
            Query(f"dicomd_worker_open_fds{{{CHOSEN}}}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Log lines",
            "A second, by level, lines that could not be written, and lines left out of a flood.",
            "ops",
            rate("dicomd_log_records_total", "level"),
            Query(f"sum(rate(dicomd_log_records_lost_total{{{CHOSEN}}}[$__rate_interval]))", "lost"),
            Query(f"sum(rate(dicomd_log_records_suppressed_total{{{CHOSEN}}}[$__rate_interval]))", "left out"),
        ),
        graph(
            "Audit messages",
            "A minute: kept in the spool, sent to the syslog server, lost. Normal: none is lost.",
            "short",
            Query(
                f"60 * sum by (result) (rate(dicomd_audit_messages_total{{{CHOSEN}}}[$__rate_interval]))", "{{result}}"
            ),
        ),
        graph(
            "Internal errors",
            "Unexpected exceptions in the last hour; each is a bug to report. Normal: none.",
            "short",
            hourly("dicomd_internal_errors_total", "module"),
        ),
    ]


if __name__ == "__main__":
    main()
