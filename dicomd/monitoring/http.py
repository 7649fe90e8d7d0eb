"""The HTTP endpoint: metrics, health, readiness and status, for programs and for people with curl or a browser.

Invariant: it answers a health probe whatever other clients do. Each connection is one request with a thread of its own.
There are at most `MAX_CONNECTIONS`, for at most `MAX_SECONDS` each; a further one replaces the oldest of those that
have not sent their request yet, or else the oldest of all. Only the head of a request is read, and nothing that a
client sends reaches a log, a label or a file.
"""

import contextlib
import gzip
import math
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, BaseServer, TCPServer
from typing import IO, Any, Final

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dicomd.monitoring.accept import accepts_gzip, prefers_openmetrics
from dicomd.monitoring.hosts import is_shown
from dicomd.telemetry.logs import get_logger
from dicomd.telemetry.messages import Message

MAX_CONNECTIONS: Final = 16
MAX_SECONDS: Final = 15.0  # of a connection from accept to close; a scrape needs milliseconds
MAX_HEAD: Final = 128 * 1024  # bytes of a request's head; http.server's own limits allow 6 MiB
READ_TIMEOUT: Final = 5.0  # seconds without a byte
_BACKLOG: Final = 64
_POLL_SECONDS: Final = 0.25  # between two checks for expired connections; a stop may have to wait for the next one

PAGES: Final = {
    "/": "the daemon's status for people with a browser",
    "/metrics": "metrics for Prometheus (text or OpenMetrics, depending on Accept)",
    "/-/healthy": "200 while the daemon works, else 503",
    "/-/ready": "200 while instances are accepted, else 503 and the reason",
    "/status": "the daemon's status as JSON",
}
_OF_PEERS: Final = ("/", "/status")  # these show AE Titles and addresses, so their requests' Host header is checked
_MISDIRECTED: Final = (
    "This page is only shown under an IP address, localhost, or a name in http.hosts of dicomd's configuration, such "
    'as hosts = ["dicomd.example.org"].\n'
)
_INDEX: Final = "".join(f"{path:<12}{what}\n" for path, what in PAGES.items())

_log = get_logger()


class HttpEndpoint:
    """Serves `PAGES` on a bound socket, which becomes its own, in threads of this process from `start` to `stop`.

    ``healthy`` returns whether the daemon works; ``ready`` whether instances are accepted, and in one line why not;
    ``status`` the JSON object of /status, and ``page`` the HTML document of /. Both pages are shown under IP addresses,
    localhost and the names that ``hosts`` returns. ``registry`` is collected at each request to /metrics. If any of
    them raises, the answer is 500, the exception is logged, and ``on_error`` is called.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
        ready: Callable[[], tuple[bool, str]],
        status: Callable[[], dict[str, Any]],
        page: Callable[[], str],
        hosts: Callable[[], Collection[str]],
        on_error: Callable[[], None],
    ) -> None:
        sock.listen(_BACKLOG)
        self._registry = registry
        self._healthy = healthy
        self._ready = ready
        self._status = status
        self._page = page
        self._hosts = hosts
        self._on_error = on_error
        self._server = _Server(sock, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True
        )

    def start(self) -> None:
        """Begin to serve. Starts threads, so the process must not fork afterwards."""
        self._thread.start()

    def stop(self) -> None:
        """Close the listening socket and all connections; returns after about a second at most. Idempotent."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.close_connections(time.monotonic() + 1.0)

    def respond(self, path: str, hosts: Sequence[str], accept: str, accept_encoding: str) -> "HttpResponse":
        """Return the response to a GET of the path with these headers. Exceptions become a response with status 500."""
        try:
            if path in _OF_PEERS and not is_shown(hosts, self._hosts()):
                return HttpResponse(HTTPStatus.MISDIRECTED_REQUEST, _MISDIRECTED)
            match path:
                case "/metrics":
                    return self._metrics(accept, accept_encoding)
                case "/-/healthy":
                    healthy = self._healthy()
                    return HttpResponse(*((HTTPStatus.OK, "healthy\n") if healthy else (_UNAVAILABLE, "not healthy\n")))
                case "/-/ready":
                    ready, reason = self._ready()
                    return (
                        HttpResponse(HTTPStatus.OK, "ready\n")
                        if ready
                        else HttpResponse(_UNAVAILABLE, f"not ready: {reason}\n")
                    )
                case "/status":
                    body = orjson.dumps(self._status(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
                    return HttpResponse(HTTPStatus.OK, body, "application/json")
                case "/":
                    return HttpResponse(HTTPStatus.OK, self._page(), "text/html; charset=utf-8")
                case _:
                    return HttpResponse(HTTPStatus.NOT_FOUND, f"Not found. There is:\n{_INDEX}")
        except Exception:
            _log.exception(Message.INTERNAL_ERROR, module=__name__)
            self._on_error()
            return HttpResponse(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the log\n")

    def _metrics(self, accept: str, accept_encoding: str) -> "HttpResponse":
        # Never pass a client's header to choose_encoder: some make it raise, others make it echo what they say.
        encode, content_type = choose_encoder("application/openmetrics-text" if prefers_openmetrics(accept) else "")
        body = encode(self._registry)
        if accepts_gzip(accept_encoding):
            return HttpResponse(HTTPStatus.OK, gzip.compress(body, compresslevel=1), content_type, "gzip")
        return HttpResponse(HTTPStatus.OK, body, content_type)


class HttpResponse:
    """Status, body, and the type and encoding of the body."""

    def __init__(
        self, status: HTTPStatus, body: str | bytes, content_type: str = "text/plain; charset=utf-8", encoding: str = ""
    ) -> None:
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.content_type = content_type
        self.encoding = encoding


_NOTHING_BUT_STYLE: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_UNAVAILABLE: Final = HTTPStatus.SERVICE_UNAVAILABLE


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection with one request (HTTP/1.0: the server closes)."""

    server: "_Server"
    timeout = READ_TIMEOUT
    wbufsize = -1  # send head and body together: otherwise the body would wait for the client's delayed ACK
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def setup(self) -> None:
        """Limit how many bytes are read from the connection."""
        super().setup()
        self.rfile: Any = _Head(self.rfile)

    def do_GET(self) -> None:
        """Send the page, or an error."""
        self.server.answers(self.connection)
        path = self.path.partition("?")[0]
        hosts, accept, accept_encoding = (
            [str(value) for value in self.headers.get_all(name, ())] for name in ("Host", "Accept", "Accept-Encoding")
        )
        self._send(self.server.endpoint.respond(path, hosts, ",".join(accept), ",".join(accept_encoding)))

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def do_POST(self) -> None:
        """Refuse all methods that would change something: nothing can be changed here."""
        self._send(HttpResponse(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n"))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815 - http.server's names

    def version_string(self) -> str:
        """Return the Server header, without versions."""
        return "dicomd"

    def log_message(self, *_: Any) -> None:
        """Log nothing: a scrape every few seconds isn't worth a line."""

    def _send(self, response: HttpResponse) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Vary", "Accept, Accept-Encoding")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _NOTHING_BUT_STYLE)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if response.encoding:
            self.send_header("Content-Encoding", response.encoding)
        if response.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)


class _Head:
    """Reads at most `MAX_HEAD` bytes of a connection; `http.server` answers a longer head with 431."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MAX_HEAD
        self.close = stream.close

    def readline(self, size: int) -> bytes:
        """Return the next line, or its first `size` bytes. Raises LineTooLong if the head is too long."""
        line = self._stream.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("head of the request")
        return line


class _Server(TCPServer):
    """socketserver's accept loop over a given socket, with a bounded number of connections and threads."""

    def __init__(self, sock: socket.socket, endpoint: HttpEndpoint) -> None:
        handler: type[BaseRequestHandler] = _Handler
        # Skip TCPServer's __init__: it creates a socket, which the shipped unit forbids (RestrictAddressFamilies=).
        BaseServer.__init__(self, sock.getsockname()[:2], handler)
        self.socket = sock
        self.endpoint = endpoint
        self._slots = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # connections in order of arrival, with their deadlines
        self._answered: set[socket.socket] = set()  # those whose request has arrived

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. If no descriptors are left, pause, or else the loop would spin."""
        try:
            return self.socket.accept()
        except OSError:
            time.sleep(_POLL_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection in a thread. If all places are in use, close the oldest connection first."""
        if not self._slots.acquire(blocking=False):
            self._cut_oldest()
            if not self._slots.acquire(timeout=1.0):  # its thread is busy with something other than its client
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic() + MAX_SECONDS
        try:
            threading.Thread(
                target=self._serve, args=(request, client_address), name="http-request", daemon=True
            ).start()
        except RuntimeError:  # no thread can be started
            self._finished(request)

    def answers(self, request: socket.socket) -> None:
        """Note that the connection's request has arrived, so that those without one are closed before it."""
        with self._lock:
            if request in self._open:
                self._answered.add(request)

    def service_actions(self) -> None:
        """Close expired connections; called between two polls."""
        self._cut(before=time.monotonic())

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Log nothing: only the client's connection has failed. Errors of the pages are answered with 500."""

    def close_connections(self, deadline: float) -> None:
        """Close all connections, and wait for their threads until the deadline (time.monotonic())."""
        self._cut(before=math.inf)
        for _ in range(MAX_CONNECTIONS):
            if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return
        self._slots.release(MAX_CONNECTIONS)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the client has closed the connection, or it was closed here
            pass
        except Exception:
            _log.exception(Message.INTERNAL_ERROR, module=__name__)
        finally:
            self._finished(request)

    def _finished(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)  # missing if it was closed early
            self._answered.discard(request)
        self.shutdown_request(request)
        self._slots.release()

    def _cut(self, *, before: float) -> None:
        with self._lock:
            for request in [request for request, deadline in self._open.items() if deadline <= before]:
                self._shut(request)

    def _cut_oldest(self) -> None:
        with self._lock:
            for request in [*(one for one in self._open if one not in self._answered), *self._open][:1]:
                self._shut(request)

    def _shut(self, request: socket.socket) -> None:
        """Shut the connection down, so that its thread's read or write returns.

        The lock must be held, or else the descriptor might already belong to another connection.
        """
        del self._open[request]
        self._answered.discard(request)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
