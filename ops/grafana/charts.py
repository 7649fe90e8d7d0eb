"""The building blocks of the dashboard: queries, graphs over time, and single figures.

Every panel queries the chosen data source about the chosen instances, and can't be made without a description.
"""
# ruff: noqa: INP001 - beside the program that uses it, not a package

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = 'instance=~"$instance"'
GREEN, AMBER, RED, PLAIN = "green", "orange", "red", "text"

# Three graphs or six numbers fill a row of 24 columns.
GRAPH_WIDTH, GRAPH_HEIGHT = 8, 8
NUMBER_WIDTH, NUMBER_HEIGHT = 4, 4


class Query(NamedTuple):
    """A PromQL expression and the legend of its series."""

    expression: str
    legend: str = "__auto"


def rate(counter: str, *labels: str) -> Query:
    """Query the rate of a counter per second, by these labels."""
    return _by(f"rate({counter}{{{CHOSEN}}}[$__rate_interval])", labels)


def hourly(counter: str, *labels: str) -> Query:
    """Query the increase of a counter in the last hour, by these labels."""
    return _by(f"increase({counter}{{{CHOSEN}}}[1h])", labels)


def _by(series: str, labels: Sequence[str]) -> Query:
    return Query(f"sum by ({', '.join(labels)}) ({series})", " ".join(f"{{{{{label}}}}}" for label in labels))


def quantiles(histogram: str, *shares: float) -> list[Query]:
    """Query the quantiles (0 to 1) of a histogram."""
    buckets = f"sum by (le) (rate({histogram}_bucket{{{CHOSEN}}}[$__rate_interval]))"
    return [Query(f"histogram_quantile({share}, {buckets})", f"{share:.0%}") for share in shares]


def graph(title: str, description: str, unit: str, *queries: Query, stacked: bool = False) -> timeseries.Panel:
    """Make a graph of lines over time, from 0 upwards."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(GRAPH_WIDTH)
        .height(GRAPH_HEIGHT)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(options.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(options.StackingMode.NORMAL if stacked else options.StackingMode.NONE))
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    for ref_id, query in zip("ABCDEF", queries, strict=False):
        panel.with_target(_target(ref_id, query).range())
    return panel


def number(
    title: str,
    description: str,
    expression: str,
    *,
    unit: str = "short",
    legend: str = "",
    steps: Sequence[tuple[str, float | None]] = ((PLAIN, None),),
    words: dict[int, tuple[str, str]] | None = None,
    nothing: str = "unknown",
    trend: bool = False,
) -> stat.Panel:
    """Make a panel with the present figure, coloured by `steps`, or with a word for each value in `words`."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(NUMBER_WIDTH)
        .height(NUMBER_HEIGHT)
        .unit(unit)
        .no_value(nothing)
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.AREA if trend else options.BigValueGraphMode.NONE)
        .text_mode(options.BigValueTextMode.NAME if legend else options.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(
            build.ThresholdsConfig()
            .mode(model.ThresholdsMode.ABSOLUTE)
            .steps([model.Threshold(value=value, color=color) for color, value in steps])
        )
    )
    if words:
        results = {
            str(value): model.ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()
        }
        panel.mappings([model.ValueMap(options=results)])
    query = _target("A", Query(expression, legend or "__auto"))
    return panel.with_target(query.range() if trend else query.instant())


def _target(ref_id: str, query: Query) -> Dataquery:
    return Dataquery().ref_id(ref_id).datasource(SOURCE).expr(query.expression).legend_format(query.legend)
