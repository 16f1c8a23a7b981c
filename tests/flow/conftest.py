"""Systems that the tests of a module share, and systems for single tests."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from card_worker.embedded.valkey import NoServer, Valkey
from card_worker.storage.migrations import upgrade
from tests import servers
from tests.flow.system import System, plain_client, system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what its processes have written last."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, System):
                report.sections += [(f"end of {log}", tail) for log, tail in value.parts.tails()]
    return report


@pytest.fixture(scope="module")
def shared_database_url(postgres_server: servers.Server, postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database that the tests of a module share."""
    with servers.database(postgres_server, template=postgres_template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty broker that the tests of a module share: to be used, not stopped."""
    with servers.broker(tmp_path_factory.mktemp("broker")) as server:
        with Redis.from_url(server.url) as client:
            client.flushdb()
        yield server.url


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, shared_database_url: str, shared_broker_url: str
) -> Iterator[System]:
    """A system that the tests of a module share; no part of it runs yet."""
    folder = tmp_path_factory.mktemp("shared")
    with system(folder, database_url=shared_database_url, broker_url=shared_broker_url) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path, postgres_url: str, own_broker: Valkey) -> Iterator[System]:
    """A system of the test's own; no part of it runs yet."""
    with system(tmp_path, database_url=postgres_url, broker_url=own_broker.url) as made:
        yield made


@pytest.fixture
def own_postgres() -> Iterator[servers.Postgres]:
    """A migrated PostgreSQL of the test's own, to be stopped and crashed."""
    try:
        with servers.postgres() as server:
            upgrade(server.url)
            yield server
    except NoServer as error:
        servers.missing(error, "PATH")


@pytest.fixture(scope="module")
def plain_celery_client(shared_broker_url: str) -> Iterator[Celery]:
    with plain_client(shared_broker_url) as client:
        yield client
