"""Reads the pages of an HTTP endpoint."""

from __future__ import annotations

import http.client
from collections.abc import Mapping


def get(
    address: tuple[str, int], path: str, *, timeout: float, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """GET a page: status and text; `timeout` in seconds. Raises OSError and http.client.HTTPException."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
