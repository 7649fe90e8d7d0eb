"""Parses PromQL expressions for their selectors and the labels they group by.

Invariant: no identifier is ignored. One that is neither a metric of dicomd, a recorded figure nor a known word of
PromQL raises ValueError, so that a misspelt metric can't be mistaken for a function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"(?<![\w:])(?P<name>up|dicomd_\w+|[a-z]+:[\w:]+)(?![\w:])(?P<matchers>\{[^}]*\})?")
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_DURATION = re.compile(r"\[\d+[smhd]\]")
_WORD = re.compile(r"[a-zA-Z_]\w*")
_WORDS = frozenset(
    ("and", "or", "sum", "min", "max", "time", "rate", "increase", "deriv", "predict_linear", "histogram_quantile")
)
GRAFANA_VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$instance": ".*"}
"""Values like those that Grafana substitutes for them."""


@dataclass(frozen=True)
class Selector:
    """A metric's name, the labels it is matched by, and the selector as written."""

    name: str
    labels: frozenset[str]
    text: str


def without_variables(expression: str) -> str:
    """The expression as Grafana sends it. Raises ValueError for a variable that is unknown here."""
    for variable, value in GRAFANA_VARIABLES.items():
        expression = expression.replace(variable, value)
    if "$" in expression:
        raise ValueError(f"unknown variable in {expression}")
    return expression


def selectors(expression: str) -> list[Selector]:
    """The selectors of an expression. Raises ValueError for an unknown word."""
    found = []
    for match in _SELECTOR.finditer(expression):
        matchers = _STRING.sub("", match["matchers"] or "")
        found.append(Selector(match["name"], frozenset(_MATCHED.findall(matchers)), match[0]))
    rest = _DURATION.sub("", _GROUPED.sub("", _SELECTOR.sub("", expression)))
    if unknown := set(_WORD.findall(rest)) - _WORDS:
        raise ValueError(f"{', '.join(sorted(unknown))} in {expression}")
    return found


def grouped_by(expression: str) -> set[str]:
    """The labels in the `by` and `on` clauses."""
    return {label.strip() for clause in _GROUPED.findall(expression) for label in clause.split(",") if label.strip()}
