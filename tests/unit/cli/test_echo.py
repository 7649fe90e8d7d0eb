"""`dicomd echo` against real peers, and against servers that don't speak DICOM."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from click.testing import Result

Call = Callable[..., Result]


@contextmanager
def tcp_peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a TCP server for one connection, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(timeout=10)
            assert not thread.is_alive()


def read_to_end(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def answering(pdu: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(pdu)
        read_to_end(connection)

    return serve


def test_success_exits_0(dicomd: Call, start_peer: Callable[..., object]) -> None:
    port = start_peer().port
    result = dicomd("echo", "127.0.0.1", port)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"127.0.0.1:{port}: echo answered with 0x0000 (Success)")


def test_other_status_exits_1(dicomd: Call, start_peer: Callable[..., object]) -> None:
    peer = start_peer()
    peer.answer = lambda event: 0x0122
    result = dicomd("echo", "127.0.0.1", peer.port)
    assert result.exit_code == 1
    assert "0x0122 (Failure: Refused: SOP Class Not Supported)" in result.stderr


# pynetdicom leaves the socket of a refused connection to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_nobody_there_is_told(dicomd: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = dicomd("echo", "127.0.0.1", port)
    assert result.exit_code == 1
    assert result.stderr == f"127.0.0.1:{port}: connection refused\n"


def test_unknown_host_is_told(dicomd: Call) -> None:
    result = dicomd("echo", "no-such-host.invalid", 104, "--timeout", "2s")
    assert result.exit_code == 1
    assert result.stderr.startswith("no-such-host.invalid: ")


@pytest.mark.parametrize(
    ("result_source_reason", "words"),
    [
        (b"\1\1\3", "rejected, permanent, by the service-user: Calling AE Title not recognized (1/1/3)"),
        (b"\1\1\7", "rejected, permanent, by the service-user: Called AE Title not recognized (1/1/7)"),
        (b"\2\3\2", "rejected, transient, by the service-provider (Presentation): local limit exceeded (2/3/2)"),
    ],
)
def test_rejection_is_told_in_the_words_of_the_standard(dicomd: Call, result_source_reason: bytes, words: str) -> None:
    with tcp_peer(answering(b"\3\0\0\0\0\4\0" + result_source_reason)) as port:
        result = dicomd("echo", "127.0.0.1", port, "--timeout", "5s")
    assert result.exit_code == 1
    assert result.stderr == f"127.0.0.1:{port}: the Association was {words}\n"


def test_abort_is_told(dicomd: Call) -> None:
    with tcp_peer(answering(b"\7\0\0\0\0\4\0\0\2\1")) as port:
        result = dicomd("echo", "127.0.0.1", port, "--timeout", "5s")
    assert result.exit_code == 1
    assert "the peer aborted the Association: unrecognized PDU, by its service-provider (2/1)" in result.stderr


def test_silent_peer_is_given_up_after_the_time_out(dicomd: Call) -> None:
    with tcp_peer(read_to_end) as port:
        result = dicomd("echo", "127.0.0.1", port, "--timeout", "300ms")
    assert result.exit_code == 1
    assert "no answer to the A-ASSOCIATE-RQ within 0.3 s" in result.stderr


def test_peer_that_hangs_up_is_told(dicomd: Call) -> None:
    with tcp_peer(lambda connection: connection.recv(65536) and None) as port:
        result = dicomd("echo", "127.0.0.1", port, "--timeout", "5s")
    assert result.exit_code == 1
    assert "closed the connection without an answer" in result.stderr


def test_peer_without_verification_is_told(dicomd: Call, start_peer: Callable[..., object]) -> None:
    port = start_peer([("1.2.840.10008.5.1.4.1.1.2", ["1.2.840.10008.1.2"])]).port
    result = dicomd("echo", "127.0.0.1", port)
    assert result.exit_code == 1
    assert "accepts no Presentation Context: abstract syntax not supported" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("127.0.0.1", 0),
        ("127.0.0.1", 65536),
        ("127.0.0.1", "dicom"),
        ("127.0.0.1",),
        ("127.0.0.1", 104, "--called", "TOO_LONG_AE_TITLE_X"),
        ("127.0.0.1", 104, "--calling", ""),
        ("127.0.0.1", 104, "--timeout", "soon"),
        ("127.0.0.1", 104, "--timeout", "0"),
    ],
)
def test_mistaken_arguments_are_usage_errors(dicomd: Call, arguments: tuple[object, ...]) -> None:
    result = dicomd("echo", *arguments)
    assert result.exit_code == 2
    assert "Usage: dicomd echo" in result.output


def test_ae_titles_reach_the_peer(dicomd: Call, start_peer: Callable[..., object]) -> None:
    peer = start_peer(require_called_aet=True, require_calling_aet=["CT1"])
    assert dicomd("echo", "127.0.0.1", peer.port, "--called", "PEER", "--calling", "CT1").exit_code == 0
    assert "Calling AE Title" in dicomd("echo", "127.0.0.1", peer.port, "--called", "PEER").stderr
    assert "Called AE Title" in dicomd("echo", "127.0.0.1", peer.port, "--calling", "CT1").stderr
