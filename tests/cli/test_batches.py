"""`card-worker batch` on a database, without a broker."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from typer.testing import Result

from card_worker.domain.rows import File, FileKind
from card_worker.files import confirm
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.files import find_files, mark_started, mark_written
from tests.cli.commands import lines_of_json, refused, run
from tests.orders import ACCOUNT, CODES, Orders

LOAD = {"amount": 500, "currency": "NOK"}


@pytest.fixture
def orders(sqlite_url: str) -> Iterator[Orders]:
    engine: Engine = open_engine(sqlite_url)
    yield Orders(engine)
    engine.dispose()


def batch(orders: Orders, command: str, *options: str) -> Result:
    arguments = ("batch", command, "B1", "--account", ACCOUNT, *options)
    return run(*arguments, DATABASE_URL=str(orders.engine.url))


def recall(orders: Orders) -> None:
    """Extend a batch, which is refused for cards that are not activated."""
    orders.ask("cards.activate", "on", card_id="B1-0001", **LOAD)
    orders.ask("batches.extend", "later", batch_id="B1", expires_at="2041-01-01T00:00:00Z")
    orders.work()
    assert orders.file(kind=FileKind.REFUSED).cards


def write_all(orders: Orders) -> None:
    with begin(orders.engine) as (connection, now):
        for file in find_files(connection, ACCOUNT, "B1"):
            mark_started(connection, file)
            assert mark_written(connection, file, now)


def waiting(orders: Orders) -> list[FileKind]:
    """Return what the files hold that are not written yet."""
    with begin(orders.engine) as (connection, _):
        files: list[File] = find_files(connection, ACCOUNT, "B1")
    return sorted(file.kind for file in files if file.written_at is None)


def test_a_confirmed_file_is_not_written_again_but_that_of_a_recall_is(
    orders: Orders,
) -> None:
    orders.order(3, **CODES)
    orders.work()
    recall(orders)
    write_all(orders)
    assert batch(orders, "write").exit_code == 0
    assert waiting(orders) == [FileKind.CODES, FileKind.REFUSED]
    write_all(orders)
    confirm(orders.engine, ACCOUNT, "B1")
    code, why = refused(batch(orders, "write"))
    assert (code, "the file of B1 was confirmed; its secrets are deleted" in why) == (1, True)
    assert "that of the cards refused will be written again" in why
    assert waiting(orders) == [FileKind.REFUSED]


def test_the_file_of_a_recall_is_written_again(orders: Orders) -> None:
    orders.order(3)
    orders.work()
    recall(orders)
    write_all(orders)
    done = batch(orders, "write")
    assert (done.exit_code, waiting(orders)) == (0, [FileKind.REFUSED])
    assert done.stdout == "The files of B1 will be written again.\n"


def test_watch_prints_the_batch_as_one_line_of_json(orders: Orders) -> None:
    orders.order(3)
    orders.work()
    watched, shown = batch(orders, "watch", "--json"), batch(orders, "show", "--json")
    assert watched.exit_code == 0
    (view,) = lines_of_json(watched)
    assert (view["state"], view["created"]) == ("completed", 3)
    assert lines_of_json(shown) == [view]
    assert "B1" in watched.stderr
