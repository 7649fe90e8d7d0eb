"""The status page: what /status says, for a person with a browser.

Invariant: it is one document without a script, a font or a picture from anywhere, and whatever a stranger chose, such
as an AE Title, is escaped: page.html is a template that escapes by itself, and page.css is put into it.

Importing this reads and compiles the template. Only the exporter needs that, so only its process imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined

from dicomd.formatting import format_bytes, format_elapsed
from dicomd.monitoring.status import JsonObject

REFRESH: Final = 5  # seconds
_WIDTH, _HEIGHT = 240, 36  # of a curve, in units of its own


def render(status: JsonObject, history: Sequence[float], host: str) -> str:
    """The page, from what /status says; `history` is instances per second, the oldest first."""
    last_reload = {"successful": True, "time": "", "errors": ()} | (status["configuration"].get("last_reload") or {})
    nobody_measured: JsonObject = {"peers": (), "certificates": ()}
    return _TEMPLATE.render(
        nobody_measured | status,
        host=host,
        last_reload=last_reload,
        space=_space(status["store"]),
        curve=_curve(history),
        refresh=REFRESH,
        style=_STYLE,
    )


def _space(store: JsonObject) -> JsonObject:
    """What is known of the file system, all zero before it has been measured."""
    size, left, reserve = (store.get(key) or 0 for key in ("size_bytes", "avail_bytes", "reserve_bytes"))
    used = 100 * (1 - left / size) if size else 0.0
    return {
        "size": size,
        "left": left,
        "reserve": reserve,
        "files": store.get("files_avail") or 0,
        "percent_used": max(0.0, min(100.0, used)),
        "low": size and left < 2 * reserve,
    }


def _curve(values: Sequence[float]) -> JsonObject | None:
    """A line of the last minutes, as high as its highest point; None where there is nothing to see."""
    if len(values) < 2 or not (top := max(values)):
        return None
    step = _WIDTH / (len(values) - 1)
    points = (f"{at * step:.1f},{_HEIGHT - 2 - value / top * (_HEIGHT - 4):.1f}" for at, value in enumerate(values))
    return {"width": _WIDTH, "height": _HEIGHT, "top": top, "points": " ".join(points)}


def _grouped(count: int) -> str:
    return f"{count:,}"


def _read(name: str) -> str:
    return files("dicomd.monitoring").joinpath(name).read_text(encoding="utf-8")


_STYLE: Final = _read("page.css")
_ENVIRONMENT: Final = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters |= {"bytes": format_bytes, "elapsed": format_elapsed, "grouped": _grouped}
_TEMPLATE: Final = _ENVIRONMENT.from_string(_read("page.html"))
