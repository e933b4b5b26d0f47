"""Lines of JSON between two ranks: what arrives in pieces, and lines that are no messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kws.distributed.connection import Connection


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    """A connection and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_a_line_that_is_no_message_does_not_take_the_others_with_it(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    deep = b"[" * 100_000
    for bad in (b"GET / HTTP/1.1", b"\xff\xfe", b"", b"7", b"null", deep):
        other.sendall(b'{"left": true}\n' + bad + b'\n{"stop": 15}\n{"fa')
        received = []
        while {"stop": 15} not in received:
            received += connection.receive()
        assert received == [{"left": True}, {"stop": 15}]
        other.sendall(b'iled": "why"}\n')
        while not (last := connection.receive()):
            pass
        assert last == [{"failed": "why"}]
    assert not connection.closed


def test_the_end_of_the_other_side_closes_and_keeps_its_last_messages(pair: tuple[Connection, socket.socket]) -> None:
    connection, other = pair
    other.sendall(b'{"failed": "why"}\nnot json\n')
    other.close()
    assert connection.receive() == [{"failed": "why"}]
    assert connection.receive() == []
    assert connection.closed
