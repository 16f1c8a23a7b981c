"""A restored database is whole; what the stream has beyond it is found."""

import subprocess
from pathlib import Path

from redis import Redis
from sqlalchemy import Engine
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.storage.engine import begin, open_engine, reading
from card_worker.storage.migrations import upgrade
from card_worker.storage.reconcile import differences
from card_worker.streams import UnknownEntry, unknown_entries
from tests import servers
from tests.flow.processes import until
from tests.flow.system import STREAM
from tests.flow.test_relay import relays, unpublished
from tests.flow.test_republish import published, stored
from tests.storage.test_handler import create, handle_commands, spend


def unknown(redis: "Redis", engine: Engine) -> list[UnknownEntry]:
    return list(unknown_entries(redis, STREAM, engine))


def copy_database(server: servers.Postgres, url: str, file: Path) -> None:
    """Dump the server's own database as the page says, and restore it into the one of `url`."""
    for program, *arguments in (
        ("pg_dump", f"--dbname={server.url}", "--no-owner", "--no-privileges", f"--file={file}"),
        ("psql", f"--dbname={url}", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={file}"),
    ):
        if not (server.programs / program).exists():
            servers.missing(f"no {program}")
        subprocess.run([server.programs / program, *arguments], check=True, capture_output=True)


def test_a_restored_database_is_behind_the_stream(
    own_postgres: servers.Postgres, broker_url: str, redis_client: "Redis", tmp_path: Path
) -> None:
    engine = open_engine(own_postgres.url)
    with servers.database(own_postgres) as url:
        with relays(own_postgres.url, broker_url):
            handle_commands(engine, create("A1"), create("A2"), spend("A1", "r1"))
            until(lambda: redis_client.xlen(STREAM) == 3, "the first events")
        copy_database(own_postgres, url, tmp_path / "dump.sql")
        with relays(own_postgres.url, broker_url):  # after the backup
            lost = handle_commands(engine, spend("A1", "r2"), create("A3"))
            again = spend("A1", "r1").model_copy(update={"command_id": "another"})
            handle_commands(engine, again)
            until(lambda: redis_client.xlen(STREAM) == 6, "all events")
        assert unknown(redis_client, engine) == []
        engine.dispose()
        upgrade(url)
        _after_the_restore(url, broker_url, redis_client, [str(answer.id) for answer in lost])


def _after_the_restore(url: str, broker_url: str, redis: "Redis", lost: list[str]) -> None:
    restored = open_engine(url)
    with reading(restored) as connection:
        assert list(differences(connection)) == []
    found = unknown(redis, restored)
    assert [(each.event_id, each.is_changed) for each in found] == [(id, False) for id in lost]
    # One command is sent again, and another one comes with the same sequence.
    with begin(restored) as (connection, now):
        pass
    handle_commands(restored, spend("A1", "other"), now=now)
    handle_commands(restored, spend("A1", "r2"), now=now)
    with relays(url, broker_url):
        until(lambda: unpublished(restored) == 0, "the events of both")
        until(lambda: redis.xlen(STREAM) == 8, "both")
    found = unknown(redis, restored)
    assert [(each.event_id, each.is_changed) for each in found] == list(
        zip(lost, [True, False], strict=True)
    )
    settings = {"CARD_WORKER_DATABASE_URL": url, "CARD_WORKER_BROKER_URL": broker_url}
    compared = CliRunner().invoke(app, ["events", "compare"], env=settings)
    assert (compared.exit_code, len(compared.stdout.splitlines())) == (1, 2)
    for entry in found:
        redis.xdel(STREAM, entry.entry_id)
    compared = CliRunner().invoke(app, ["events", "compare"], env=settings)
    assert compared.exit_code == 0
    assert set(published(redis)) >= set(stored(restored))
    restored.dispose()


def test_a_stream_longer_than_a_slice_is_compared(
    engine: Engine, database_url: str, broker_url: str, redis_client: "Redis"
) -> None:
    assert unknown(redis_client, engine) == []
    with relays(database_url, broker_url):
        handle_commands(engine, *(create(f"A{number}") for number in range(1100)))
        until(lambda: redis_client.xlen(STREAM) == 1100, "all events")
    assert unknown(redis_client, engine) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox WHERE subject IN ('A0', 'A600', 'A1099')")
    found = unknown(redis_client, engine)
    assert {each.subject for each in found} == {"A0", "A600", "A1099"}


def test_entries_that_others_have_written_are_unknown(
    engine: Engine, redis_client: "Redis"
) -> None:
    redis_client.xadd(STREAM, {"text": "no event"})
    redis_client.xadd(STREAM, {"id": "first"})
    redis_client.xadd(STREAM, {"event": "", "id": ""})
    assert [each.event_id for each in unknown(redis_client, engine)] == ["", "first", ""]
