"""The HTTP endpoint, queried by real clients over loopback."""

import gzip
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from dicomd.monitoring import http as http_module
from dicomd.monitoring.http import MAX_CONNECTIONS, HttpEndpoint
from dicomd.telemetry.metrics import Metrics
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("metric_files")

DEADLINE = 20.0


class Daemon:
    """The answers that the endpoint gets from the daemon, which a test can set."""

    def __init__(self) -> None:
        self.healthy = True
        self.ready = (True, "")
        self.errors = 0
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, version="1", listeners=["dicom"])
        self.status: Callable[[], dict[str, Any]] = lambda: {"version": "1", "associations": []}
        self.hosts: tuple[str, ...] = ()

    def count_error(self) -> None:
        self.errors += 1


class Endpoint(HttpEndpoint):
    """The endpoint of a daemon, on any port if it gets no socket."""

    def __init__(self, daemon: Daemon, sock: socket.socket | None = None) -> None:
        sock = socket.create_server(("127.0.0.1", 0)) if sock is None else sock
        self.address: tuple[str, int] = sock.getsockname()[:2]
        super().__init__(
            sock,
            registry=daemon.registry,
            healthy=lambda: daemon.healthy,
            ready=lambda: daemon.ready,
            status=lambda: daemon.status(),  # noqa: PLW0108 - tests replace it
            page=lambda: "<!doctype html>",
            hosts=lambda: daemon.hosts,
            on_error=daemon.count_error,
        )


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def endpoint(daemon: Daemon) -> Iterator[Endpoint]:
    made = Endpoint(daemon)
    made.start()
    yield made
    made.stop()


def test_a_given_socket_is_served_by_a_process_that_may_make_none(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under RestrictAddressFamilies=AF_UNIX."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        with monkeypatch.context() as forbidden:
            forbidden.setattr(socket.socket, "__init__", None)
            made = Endpoint(daemon, given)
        made.start()
        try:
            assert get(made, "/-/ready")[0] == 200
        finally:
            made.stop()


def get(
    endpoint: Endpoint, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send one request; return status, headers and body."""
    host, port = endpoint.address
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def raw(endpoint: Endpoint, request: bytes) -> bytes:
    """Send these bytes; return the answer as far as it was received before the connection ended."""
    answer = b""
    with silent(endpoint) as client:
        try:
            client.sendall(request)
            while data := client.recv(65536):
                answer += data
        except ConnectionResetError:  # bytes sent after the answer are not read
            pass
    return answer


def silent(endpoint: Endpoint) -> socket.socket:
    """A client that connects and sends nothing."""
    return socket.create_connection(endpoint.address, timeout=DEADLINE)


def request_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "http-request"]


def test_metrics_are_text_for_a_plain_client(endpoint: Endpoint, daemon: Daemon) -> None:
    daemon.metrics.listener("dicom").connected()
    status, headers, body = get(endpoint, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in parse_text(body.decode())}
    assert families["dicomd_connections"].samples[0].value == 1


def test_metrics_are_openmetrics_for_who_accepts_it(endpoint: Endpoint) -> None:
    status, headers, body = get(endpoint, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert "dicomd_connections" in {family.name for family in parse_openmetrics(body.decode())}


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1=2",
        "application/openmetrics-text;version=x.y.z",
        "text/plain;version=x.y.z",
        "text/plain;version=1=2",
        "application/openmetrics-text;version=" + "9" * 5000,
        "application/openmetrics-text;version=1.0.0\u00a0x",
        ";;;=,=;",
    ],
)
def test_metrics_are_text_for_who_asks_for_nothing_that_there_is(
    endpoint: Endpoint, daemon: Daemon, accept: str
) -> None:
    status, headers, body = get(endpoint, "/metrics", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert list(parse_text(body.decode()))
    assert daemon.errors == 0


def test_pages_about_peers_are_shown_under_our_names_alone(endpoint: Endpoint, daemon: Daemon) -> None:
    daemon.hosts = ("dicomd.example.org",)
    for path in ("/", "/status", "/status?x", "/?x"):
        for host in ("127.0.0.1:1", "localhost", "dicomd.example.org:11113"):
            assert get(endpoint, path, Host=host)[0] == 200, (path, host)
        status, headers, body = get(endpoint, path, Host="evil.example")
        assert (status, headers["Content-Type"]) == (421, "text/plain; charset=utf-8")
        assert b"http.hosts" in body
        assert b"evil" not in body
    daemon.hosts = ()
    assert get(endpoint, "/status", Host="dicomd.example.org")[0] == 421


def test_metrics_and_probes_take_any_host_or_none(endpoint: Endpoint) -> None:
    for path in ("/metrics", "/-/healthy", "/-/ready", "/nothing"):
        assert get(endpoint, path, Host="evil.example")[0] == (404 if path == "/nothing" else 200)
        assert raw(endpoint, f"GET {path} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.0 ")
    for hosts in (b"", b"Host: 127.0.0.1\r\nHost: evil.example\r\n", b"Host: \xff\r\n", b"Host:\r\n"):
        for page in (b"/", b"/status"):
            answer = raw(endpoint, b"GET " + page + b" HTTP/1.1\r\n" + hosts + b"\r\n")
            assert answer.startswith(b"HTTP/1.0 421 "), answer


def test_a_page_named_with_its_host_is_not_there(endpoint: Endpoint) -> None:
    """The absolute form (RFC 9112 §3.2.2) is for proxies, and the Host header has no meaning with it."""
    for target in (b"http://evil.example/status", b"http://127.0.0.1/", b"//evil.example/status", b"http://[::1"):
        assert b" 404 " in raw(endpoint, b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


def test_a_head_that_goes_on_and_on_is_cut_off(endpoint: Endpoint) -> None:
    line = b"X-A: " + b"b" * 60_000 + b"\r\n"
    assert b" 200 " in raw(endpoint, b"GET /-/healthy HTTP/1.0\r\n" + line + b"\r\n")
    assert b" 431 " in raw(endpoint, b"GET /-/healthy HTTP/1.0\r\n" + 3 * line + b"\r\n")
    assert b" 431 " in raw(endpoint, b"GET /-/healthy HTTP/1.0\r\n" + 200 * b"A: b\r\n" + b"\r\n")


def test_metrics_are_compressed_for_who_accepts_it(endpoint: Endpoint) -> None:
    _, headers, body = get(endpoint, "/metrics", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert int(headers["Content-Length"]) == len(body)
    assert b"dicomd_connections_total" in gzip.decompress(body)


def test_urllib_reads_it(endpoint: Endpoint) -> None:
    host, port = endpoint.address
    with urllib.request.urlopen(f"http://{host}:{port}/-/healthy", timeout=DEADLINE) as response:
        assert response.read() == b"healthy\n"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{host}:{port}/nothing", timeout=DEADLINE)
    with caught.value as error:
        assert error.code == 404


def test_healthy_and_ready_follow_the_daemon(endpoint: Endpoint, daemon: Daemon) -> None:
    assert get(endpoint, "/-/healthy")[0] == 200
    assert get(endpoint, "/-/ready")[::2] == (200, b"ready\n")
    daemon.ready = (False, "store: below the reserve of 1 GiB")
    assert get(endpoint, "/-/ready")[::2] == (503, b"not ready: store: below the reserve of 1 GiB\n")
    daemon.healthy = False
    assert get(endpoint, "/-/healthy")[0] == 503


def test_status_is_json(endpoint: Endpoint) -> None:
    status, headers, body = get(endpoint, "/status?verbose")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"version": "1", "associations": []}
    assert headers["Cache-Control"] == "no-store"


def test_the_page_is_html_that_loads_nothing(endpoint: Endpoint) -> None:
    status, headers, body = get(endpoint, "/")
    assert (status, body) == (200, b"<!doctype html>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    for directive in ("default-src 'none'", "frame-ancestors 'none'"):
        assert directive in headers["Content-Security-Policy"]
    assert not any(name.lower().startswith("access-control-") for name in headers)  # no other page may read it


def test_another_path_lists_what_there_is(endpoint: Endpoint) -> None:
    for path in ("/x", "/metrics/", "/../etc/passwd", "http://x/metrics"):
        status, _, body = get(endpoint, path)
        assert status == 404, path
        for page in ("/metrics", "/-/healthy", "/-/ready", "/status"):
            assert page in body.decode()


def test_head_has_the_headers_without_the_body(endpoint: Endpoint) -> None:
    for path, expected in (("/metrics", 200), ("/-/ready", 200), ("/nothing", 404)):
        status, headers, body = get(endpoint, path, "HEAD")
        assert status == expected
        assert int(headers["Content-Length"]) > 0
        assert body == b""


def test_methods_that_would_change_something_are_refused(endpoint: Endpoint) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = get(endpoint, "/status", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert get(endpoint, "/status", "BREW")[0] == 501


def test_what_is_not_http_is_refused_in_plain_text(endpoint: Endpoint) -> None:
    with silent(endpoint) as client:
        client.sendall(b"\x01\x00\x00\x00\x00\xcd\x00\x01 an A-ASSOCIATE-RQ\r\n\r\n")
        answer = client.makefile("rb").read()
    assert b"400" in answer
    assert b"<" not in answer


def test_an_error_in_a_page_is_a_500_and_is_reported(
    endpoint: Endpoint, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.status = lambda: {"not": object()}
    assert get(endpoint, "/status")[::2] == (500, b"internal error, see the log\n")
    assert daemon.errors == 1
    assert get(endpoint, "/-/healthy")[0] == 200


def test_nothing_is_said_of_requests(endpoint: Endpoint, capfd: pytest.CaptureFixture[str]) -> None:
    get(endpoint, "/metrics")
    get(endpoint, "/nothing")
    with silent(endpoint) as client:
        client.sendall(b"nonsense\r\n\r\n")
        client.makefile("rb").read()
    assert capfd.readouterr() == ("", "")


def test_a_silent_client_is_dropped(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = http_module._Handler  # noqa: SLF001 - socketserver reads the time limit from the class
    monkeypatch.setattr(handler, "timeout", 0.2)
    with silent(endpoint) as client:
        assert client.recv(1) == b""


def test_a_client_that_drips_is_dropped(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "MAX_SECONDS", 0.5)
    with silent(endpoint) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        dropped = threading.Event()

        def drip() -> None:
            try:
                while not dropped.wait(0.05):
                    client.sendall(b"X-A: b\r\n")
            except OSError:
                return

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            dropped.set()
            dripper.join()


def test_silent_clients_never_keep_a_probe_out(endpoint: Endpoint) -> None:
    clients = [silent(endpoint) for _ in range(3 * MAX_CONNECTIONS)]
    try:
        for _ in range(5):
            assert get(endpoint, "/-/healthy")[0] == 200
        assert len(request_threads()) <= MAX_CONNECTIONS
    finally:
        for client in clients:
            client.close()
    wait_until(request_threads, equals=[])


def test_silent_clients_never_cut_off_a_slow_scrape(endpoint: Endpoint, daemon: Daemon) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        asked.set()
        assert go_on.wait(DEADLINE)
        return {}

    daemon.status = slow
    found: list[int] = []
    scrape = threading.Thread(target=lambda: found.append(get(endpoint, "/status")[0]))
    scrape.start()
    assert asked.wait(DEADLINE)
    clients = [silent(endpoint) for _ in range(3 * MAX_CONNECTIONS)]
    try:
        assert get(endpoint, "/-/healthy")[0] == 200
        go_on.set()
        scrape.join(DEADLINE)
        assert found == [200]
    finally:
        go_on.set()
        for client in clients:
            client.close()


def test_many_clients_at_once_are_all_answered(endpoint: Endpoint) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.extend(get(endpoint, "/-/ready")[0] for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert statuses == [200] * 80


def test_it_serves_ipv6(daemon: Daemon) -> None:
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    endpoint = Endpoint(daemon, sock)
    endpoint.start()
    try:
        assert get(endpoint, "/-/healthy")[0] == 200
    finally:
        endpoint.stop()


def test_stop_leaves_nothing_behind(daemon: Daemon) -> None:
    endpoint = Endpoint(daemon)
    address = endpoint.address
    endpoint.start()
    with socket.create_connection(address, timeout=DEADLINE) as client:
        wait_until(request_threads)
        endpoint.stop()
        assert client.recv(1) == b""
    assert not request_threads()
    assert "http" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=DEADLINE)
    endpoint.stop()


def test_stop_before_start_closes_the_socket(daemon: Daemon) -> None:
    endpoint = Endpoint(daemon)
    address = endpoint.address
    endpoint.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=DEADLINE)
