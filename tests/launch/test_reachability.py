"""Whether a host still answers."""

from __future__ import annotations

import errno
import socket

import pytest

from hvdkit.launch import reachability
from hvdkit.launch.reachability import explain_silence, unreachable


def test_a_host_that_refuses_a_connection_is_there(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("localhost", 0))
        monkeypatch.setattr(reachability, "_SSH_PORT", closed.getsockname()[1])
        assert unreachable(["localhost"]) == {}


def test_a_name_that_nobody_knows_and_a_listener_that_never_answers(monkeypatch):
    with socket.create_server(("localhost", 0), backlog=0) as full:
        monkeypatch.setattr(reachability, "_SSH_PORT", full.getsockname()[1])
        waiting = []
        for _ in range(3):  # more than the listener takes
            client = socket.socket()
            client.setblocking(False)
            waiting.append(client)
            client.connect_ex(full.getsockname())
        problems = unreachable(["localhost", "no-such-host.invalid"], seconds=0.3)
        for client in waiting:
            client.close()
    assert problems["localhost"] == "no answer within 0.3 s"
    assert problems["no-such-host.invalid"]


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_no_way_to_a_host_is_said_as_the_system_says_it(monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "No route to host")

    monkeypatch.setattr(socket, "create_connection", refuse)
    said = explain_silence([1], {0: "gpu1", 1: "gpu2"}, unreachable(["gpu2"]))
    assert said.startswith(
        "hvdkit: gpu2 (rank 1) cannot be reached: No route to host.\n  What to do: look at this host"
    )
