"""Writes dashboard.json, which Grafana provisions or imports: `python ops/grafana/dashboard.py`, then commit both.

Every panel says in plain words what it shows and what is normal, for readers who don't know DICOM. It queries dicomd's
metrics directly, so that the dashboard works without the recording rules. The schema is that of the
grafana-foundation-sdk pinned among the development tools; a test runs this program and compares its output.
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
    """Return the dashboard as JSON, with panels numbered in reading order."""
    dashboard = (
        build.Dashboard("dicomd")
        .uid("dicomd")
        .description("Whether instances arrive, from whom, how fast, and why any were refused.")
        .tags(["dicomd", "DICOM"])
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            build.QueryVariable("instance")
            .label("dicomd")
            .description("Which dicomd, if there are several")
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
        ("Instances", _images()),
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
            "Accepting instances",
            "Yes while the store accepts instances. No: it is full, missing or broken; senders are refused and retry.",
            f"min(dicomd_store_accepting{{{CHOSEN}}})",
            words={0: ("no", RED), 1: ("yes", GREEN)},
        ),
        number(
            "Instances per second",
            "SOP Instances stored. Each slice of a CT series, for example, is one instance.",
            f"sum(rate(dicomd_instances_stored_total{{{CHOSEN}}}[$__rate_interval]))",
            trend=True,
        ),
        number(
            "Failed stores",
            "The share of C-STOREs answered with a failure. Normal: 0. The alert DicomdStoreFailing fires above 5 %.",
            f"sum(rate(dicomd_dimse_responses_total{{{CHOSEN},{FAILED}}}[$__range]))"
            f' / sum(rate(dicomd_dimse_responses_total{{{CHOSEN},command="C-STORE-RSP"}}[$__range]))',
            unit="percentunit",
            steps=((GREEN, None), (AMBER, 0.001), (RED, 0.05)),
            nothing="no stores",
        ),
        number(
            "Space left",
            "The share of the store's file system that is free. Below storage.reserve_free, dicomd refuses instances.",
            f"min(dicomd_store_avail_bytes{{{CHOSEN}}} / dicomd_store_size_bytes{{{CHOSEN}}})",
            unit="percentunit",
            steps=((RED, None), (AMBER, 0.10), (GREEN, 0.30)),
        ),
        number(
            "Space lasts for",
            "Time until the store is full at the rate of the last six hours. Empty while free space isn't shrinking.",
            f"min(dicomd_store_avail_bytes{{{CHOSEN}}} / -(deriv(dicomd_store_avail_bytes{{{CHOSEN}}}[6h]) < 0))",
            unit="s",
            steps=((RED, None), (AMBER, 86400), (GREEN, 7 * 86400)),
            nothing="not shrinking",
        ),
        number(
            "Associations used",
            "Open DICOM connections as a share of limits.associations. At 100 %, new ones are refused.",
            f"max(sum by (instance) (dicomd_associations_active{{{CHOSEN}}})"
            f" / max by (instance) (dicomd_associations_limit{{{CHOSEN}}}))",
            unit="percentunit",
            steps=((GREEN, None), (AMBER, 0.7), (RED, 0.9)),
        ),
        number(
            "Configuration",
            "Whether the configuration that was read last is in use. Rejected: the previous one still is.",
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
            "Anybody: no peers are configured, so every peer that can connect may store.",
            f"max(dicomd_access_open{{{CHOSEN}}})",
            words={0: ("configured peers", GREEN), 1: ("anybody", AMBER)},
        ),
        number(
            "Certificate expires in",
            "Of the TLS listener whose certificate expires first.",
            f"min(dicomd_tls_certificate_not_after_timestamp_seconds{{{CHOSEN}}} - time())",
            unit="s",
            steps=((RED, None), (AMBER, 86400), (GREEN, 14 * 86400)),
            nothing="no TLS",
        ),
        number(
            "Up for",
            "Time since the last start; if there are several dicomds, the shortest.",
            f"min(time() - dicomd_start_time_seconds{{{CHOSEN}}})",
            unit="s",
        ),
        number(
            "Version",
            "The versions of dicomd and its Python.",
            f"max by (version, python) (dicomd_build_info{{{CHOSEN}}})",
            legend="{{version}} · Python {{python}}",
        ),
    ]


def _images() -> list[timeseries.Panel]:
    return [
        graph(
            "Instances stored",
            "SOP Instances stored per second.",
            "ops",
            rate("dicomd_instances_stored_total", "instance"),
        ),
        graph(
            "Bytes received",
            "Bytes of Data Sets received per second, including those of refused and incomplete instances.",
            "Bps",
            rate("dicomd_store_received_bytes_total", "instance"),
        ),
        graph(
            "Failed stores by status",
            "Refused C-STOREs per second, by the status that the sender got. The cause of A7xx is here (A700 space, "
            "A701 disk, A703 memory, A710 too large), that of A900, C0xx and 01xx is the object or its sender, and "
            "that of C211 is a bug in dicomd.",
            "ops",
            Query(
                f"sum by (status) (rate(dicomd_dimse_responses_total{{{CHOSEN},{FAILED}}}[$__rate_interval]))",
                "{{status}}",
            ),
            stacked=True,
        ),
        graph(
            "Requests answered",
            "DIMSE responses per second. C-STORE sends an instance, C-ECHO only checks that dicomd answers.",
            "ops",
            rate("dicomd_dimse_responses_total", "command"),
        ),
        graph(
            "How long a store takes",
            "From a C-STORE request to its response, including the time that the sender takes: 50 %, 95 % and 99 % are "
            "faster.",
            "s",
            *quantiles("dicomd_store_duration_seconds", 0.5, 0.95, 0.99),
        ),
        graph(
            "How long the disk takes",
            "Time to sync one instance to the disk. If this rises together with the panel to the left, the disk is "
            "slow; if it doesn't, the senders or the network are.",
            "s",
            *quantiles("dicomd_store_sync_duration_seconds", 0.5, 0.95, 0.99),
        ),
        graph(
            "Size of an instance",
            "Of stored instances, 50 % and 95 % are smaller.",
            "bytes",
            *quantiles("dicomd_store_instance_size_bytes", 0.5, 0.95),
        ),
        graph(
            "Duplicates",
            "Instances per second whose UID was already stored. identical: the same bytes, so nothing was written. "
            "Others: different bytes, treated according to storage.duplicates.",
            "ops",
            rate("dicomd_store_duplicates_total", "result"),
        ),
        graph(
            "Kept unfiled",
            "Instances per second that can't be filed and were kept in the folder unfiled (storage.unfiled). Each of "
            "these files may be the only copy; the log's lines `instance unfiled` say why. Normal: none.",
            "ops",
            rate("dicomd_store_unfiled_total", "instance"),
        ),
        graph(
            "Store errors",
            "Failed operations of the store per second, with the operating system's reason. Normal: none.",
            "ops",
            rate("dicomd_store_errors_total", "operation", "errno"),
        ),
    ]


def _associations() -> list[timeseries.Panel]:
    return [
        graph(
            "Open Associations",
            "Open DICOM connections by listener, and their limit.",
            "short",
            Query(f"sum by (instance, listener) (dicomd_associations_active{{{CHOSEN}}})", "{{instance}} {{listener}}"),
            Query(f"max by (instance) (dicomd_associations_limit{{{CHOSEN}}})", "{{instance}} limit"),
        ),
        graph(
            "How Associations end",
            "Associations ended per second. released: the regular end. aborted_by_peer and connection_lost: caused by "
            "the sender or the network. aborted_locally: the sender violated the protocol. timed_out: it was silent or "
            "too slow for too long.",
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
            "Rejections per second, by the codes of PS3.8 Table 9-21: 1/3 unknown Calling AE Title, 1/7 unknown Called "
            "AE Title, 3/1 not ready or stopping, 3/2 limit reached. The log says for each what would let the peer in.",
            "ops",
            Query(
                f"sum by (source, reason) (rate(dicomd_associations_rejected_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{source}}/{{reason}}",
            ),
        ),
        graph(
            "Aborts",
            "A-ABORTs sent and received per second, by the codes of PS3.8 Table 9-26 (source 0: the service-user, 2: "
            "the service-provider).",
            "ops",
            Query(
                f"sum by (direction, source, reason) (rate(dicomd_aborts_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{direction}} {{source}}/{{reason}}",
            ),
        ),
        graph(
            "TCP connections",
            "Connections accepted per second, by listener. If there are many more than Associations, they come from "
            "probes or scanners.",
            "ops",
            rate("dicomd_connections_total", "listener"),
        ),
        graph(
            "TLS handshakes",
            "Handshakes per second, by result. Causes of failures: a wrong or expired certificate, an old protocol "
            "version, or a scanner.",
            "ops",
            rate("dicomd_tls_handshakes_total", "listener", "result"),
        ),
        graph(
            "Peers with another protocol",
            "Connections per second of peers that spoke TLS or HTTP to a plain listener, or DICOM without TLS to a TLS "
            "listener. The log's lines `protocol mismatch` say who, and what to change.",
            "ops",
            rate("dicomd_protocol_mismatches_total", "listener", "spoken"),
        ),
    ]


def _peers() -> list[timeseries.Panel]:
    return [
        graph(
            "Instances by peer",
            "SOP Instances stored per second, by configured peer; unknown stands for all others.",
            "ops",
            rate("dicomd_peer_instances_total", "peer"),
            stacked=True,
        ),
        graph(
            "Failures by peer",
            "Refused instances, and Associations that didn't end normally, per second.",
            "ops",
            rate("dicomd_peer_failures_total", "peer", "reason"),
        ),
        graph(
            "Refused by rule",
            'Refusals per second, by key of the configuration. audit: admitted now, but "enforce" would refuse.',
            "ops",
            rate("dicomd_access_refusals_total", "rule", "mode"),
        ),
        graph(
            "Limits reached",
            "How often each limit was reached, per second.",
            "ops",
            rate("dicomd_limit_hits_total", "limit"),
        ),
        graph(
            "Silence of a peer",
            "Time since each peer last stored an instance; missing until it has stored one.",
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
            "Space that the store can still use, and the size of its file system.",
            "bytes",
            Query(f"dicomd_store_avail_bytes{{{CHOSEN}}}", "{{instance}} available"),
            Query(f"dicomd_store_size_bytes{{{CHOSEN}}}", "{{instance}} size"),
        ),
        graph(
            "Inodes left",
            "Files that can still be created on the store's file system; 0 if it has no such limit.",
            "short",
            Query(f"dicomd_store_files_avail{{{CHOSEN}}}", "{{instance}}"),
        ),
        graph(
            "Recovered files",
            "Temporary files left by a crash that were handled at a start.",
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
            "Workers that ended in the last hour. drained is normal, after a reload or at a stop. Others are not.",
            "short",
            hourly("dicomd_worker_exits_total", "instance", "reason"),
        ),
        graph(
            "Memory",
            "Resident memory of each worker. It doesn't grow with the size of an instance.",
            "bytes",
            Query(f"dicomd_worker_resident_memory_bytes{{{CHOSEN}}}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Open file descriptors",
            "Of each worker. It needs one per Association, and one per instance being received.",
            "short",
            Query(f"dicomd_worker_open_fds{{{CHOSEN}}}", "{{instance}} {{worker}}"),
        ),
        graph(
            "Log lines",
            "Lines per second, by level, lines that could not be written, and lines suppressed in a flood.",
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
