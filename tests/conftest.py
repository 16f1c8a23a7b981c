"""Fixtures that any test may ask for: real databases and a real broker, started on first use."""

import gc
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import NoReturn

import psutil
import pytest
from fakeredis import TcpFakeServer
from hypothesis import HealthCheck, settings
from redis import Redis
from sqlalchemy import Engine, make_url
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from card_worker.embedded.valkey import NoServer, Valkey, valkey
from card_worker.storage.engine import open_engine
from card_worker.storage.migrations import upgrade
from tests import servers
from tests.servers import Databases, Given, Server

ROOT = Path(__file__).parents[1]
SLOW = ("tests/chaos/", "tests/differential/", "tests/flow/")
"""Where most tests run the worker and other parts as processes."""
LONG = (*SLOW, "tests/storage/", "tests/transport/")
"""The folders that take longest. They come first, so that short tests fill the end of a run."""
SERVERS = {"postgres_server", "valkey_server", "own_broker"}
"""Fixtures that start a server."""
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
WORKERS_MAX = 8
"""Each runs a PostgreSQL and a Valkey of its own."""

# However slow this machine is just now.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """End tests on SIGTERM as on Ctrl-C, with all that they have to clean up."""
    if IS_WORKER:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
    elif config.getoption("numprocesses"):
        signal.signal(signal.SIGTERM, _end_workers)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _end(*_: object) -> NoReturn:
    # pytest-xdist sends SIGINT to a worker that takes longer than 5 s to clean up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_workers(*_: object) -> NoReturn:
    # By itself pytest-xdist gives them 5 s to end their tests, and as long to clean up.
    for worker in psutil.Process().children():
        worker.terminate()
    raise KeyboardInterrupt


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Choose how many tests run side by side: for `-n auto` two for each core, as most wait."""
    cores = os.cpu_count() or 1
    return cores if config.option.numprocesses == "logical" else min(2 * cores, WORKERS_MAX)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> "Scheduler":
    return Scheduler(config, log)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Gives each worker of pytest-xdist a file at a time; of a long folder, a single test.

    Tests that share a fixture of their module stay together. The groups of `--dist loadgroup` would
    say so, but that option ignores them since pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith(LONG) and not _shares(file) else file


@cache
def _shares(file: str) -> bool:
    text = (ROOT / file).read_text()
    return re.search(r'scope="module"|\bshared\w*: ', text) is not None


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Never look for garbage among the tests and their modules, which stay to the end."""
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, and put the long folders first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    for item in items:
        if isinstance(item, pytest.Function) and _needs_server(item):
            item.add_marker(pytest.mark.server)


def _needs_server(item: pytest.Function) -> bool:
    kind = item.callspec.params.get("database_url") if hasattr(item, "callspec") else None
    return (
        item.nodeid.startswith(SLOW)
        or kind == "postgresql"
        or not SERVERS.isdisjoint(item.fixturenames)
    )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL that all tests share: to be used, not stopped."""
    with ExitStack() as running:
        try:
            server = running.enter_context(servers.database_server())
        except NoServer as error:
            servers.missing(error, servers.DATABASE_FROM)
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Server) -> Iterator[str]:
    """The name of a database with the newest schema that nobody is connected to."""
    with servers.database(postgres_server) as url:
        upgrade(url)
        name = make_url(url).database
        assert name is not None
        yield name


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: Server, postgres_template: str) -> Iterator[Databases]:
    """Databases with the newest schema."""
    databases = Databases(postgres_server, postgres_template)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """A PostgreSQL database of the test's own: newest schema, no rows."""
    with postgres_databases.take() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed SQLite file with the newest schema."""
    path = tmp_path_factory.mktemp("sqlite") / "cards.db"
    upgrade(f"sqlite:///{path}")
    assert [each.name for each in path.parent.iterdir()] == [path.name], "still open"
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite database of the test's own: newest schema, no rows."""
    path = tmp_path / "cards.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of the test's own; the test runs once on each kind."""
    kind = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(kind)
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on `database_url`, as the worker opens it."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey that all tests share: to be used, not stopped."""
    with ExitStack() as running:
        try:
            server = running.enter_context(servers.broker(tmp_path_factory.mktemp("broker")))
        except NoServer as error:
            servers.missing(error, servers.BROKER_FROM)
        yield server


@pytest.fixture(scope="session")
def broker_urls(valkey_server: Server) -> Iterator[str]:
    """One URL after the other. A server that isn't ours has only the database it was given with."""
    if isinstance(valkey_server, Given):
        return cycle([valkey_server.url])
    return cycle([f"{valkey_server.url.rpartition('/')[0]}/{number}" for number in range(1, 16)])


@pytest.fixture
def broker_url(broker_urls: Iterator[str]) -> str:
    """An empty Redis database, as a URL for Celery and redis-py."""
    url = next(broker_urls)
    with Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own, to be killed and filled up."""
    with valkey(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def redis_client(broker_url: str) -> Iterator[Redis]:
    """A client on `broker_url` that answers in `str`."""
    with Redis.from_url(broker_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def fake_redis_url() -> Iterator[str]:
    """An empty Redis in a thread of this process, for what needs no real server."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def fake_redis(fake_redis_url: str) -> Iterator[Redis]:
    """A client on `fake_redis_url` that answers in `str`."""
    with Redis.from_url(fake_redis_url, decode_responses=True) as client:
        yield client
