"""A port stays the same from one start to the next while it is free."""

from pathlib import Path

from redis import Redis

from card_worker.embedded.launching import PORTS, ports_to_try, remember_port
from card_worker.embedded.valkey import valkey


def test_the_remembered_port_comes_first_then_random_ones(tmp_path: Path) -> None:
    file = tmp_path / "port"
    remember_port(file, 5556)
    first, *others = ports_to_try(file, count=3, default=5555)
    assert first == 5556
    assert len(set(others)) == 3
    assert all(port in PORTS for port in others)


def test_without_a_remembered_port_the_default_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "port"
    assert ports_to_try(file, count=1, default=5555)[0] == 5555
    assert ports_to_try(file, count=1)[0] in PORTS
    file.write_text("no number")
    assert ports_to_try(file, count=1, default=5555)[0] == 5555


def test_a_server_takes_another_port_when_its_own_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    with valkey(folder) as server:
        before = server.port
        with Redis.from_url(server.url) as client:
            client.set("kept", "yes")
    with valkey(tmp_path / "other", port=before), valkey(folder) as server:
        assert server.port != before
        with Redis.from_url(server.url, decode_responses=True) as client:
            assert client.get("kept") == "yes"
