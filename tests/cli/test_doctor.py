"""`card-worker doctor`: each fault is found on a real server that has it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import Engine, make_url, text

from card_worker.cli.doctor.database import postgres_findings
from card_worker.cli.doctor.database import version_finding as database_version
from card_worker.cli.doctor.finding import Level
from card_worker.cli.doctor.redis import version_finding as redis_version
from card_worker.contracts.enums import EventType
from card_worker.contracts.fields import read_time
from card_worker.contracts.json_text import write_json
from card_worker.domain.answers import Answer, repeated
from card_worker.embedded.valkey import Valkey
from card_worker.redis_url import RedisAddress
from card_worker.secrets.peppers import new_pepper
from card_worker.sinks import RedisStream
from card_worker.storage.engine import begin, open_engine
from card_worker.storage.files import mark_failed
from card_worker.storage.inspection import PostgresState
from card_worker.storage.migrations import upgrade
from card_worker.storage.outbox import first_unpublished
from card_worker.storage.roles import Role
from card_worker.storage.schema import newest
from tests import servers
from tests.cli.commands import lines_of_json, run
from tests.orders import CODES, Orders

NOWHERE = "redis://127.0.0.1:1/0"
OFF_CLOCK = Path(__file__).parents[1] / "chaos" / "servers" / "off_clock.py"

Finding = tuple[str, str]
"""The part and the text."""


class Doctor:
    """Runs the doctor, on servers on which nothing is wrong unless a test changes them."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        (folder / "files").mkdir()
        self.settings = {
            "DATABASE_URL": database_url,
            "BROKER_URL": broker_url,
            "FILES_URL": str(folder / "files"),
        }

    def find(self, **settings: str) -> dict[str, list[Finding]]:
        """Return the findings by their level."""
        done = run("doctor", "--json", **{**self.settings, **settings})
        found: dict[str, list[Finding]] = {level: [] for level in Level}
        for line in lines_of_json(done):
            found[line["level"]].append((line["part"], line["text"]))
            assert (line["level"] == "ok") == (line["remedy"] is None)
        assert done.exit_code == bool(found["wrong"]), done.output
        return found

    def wrong(self, **settings: str) -> list[Finding]:
        return self.find(**settings)["wrong"]

    def warnings(self, **settings: str) -> list[Finding]:
        return self.find(**settings)["warning"]


@pytest.fixture
def doctor(tmp_path: Path, sqlite_url: str, own_broker: Valkey) -> Doctor:
    with Redis.from_url(own_broker.url) as redis:
        redis.config_set("maxmemory", "100mb")
    return Doctor(tmp_path, sqlite_url, own_broker.url)


@pytest.fixture
def redis(doctor: Doctor) -> Iterator[Redis]:
    with Redis.from_url(doctor.settings["BROKER_URL"], decode_responses=True) as client:
        yield client


@pytest.fixture
def orders(doctor: Doctor) -> Iterator[Orders]:
    engine = open_engine(doctor.settings["DATABASE_URL"])
    yield Orders(engine)
    engine.dispose()


def test_a_system_without_faults(doctor: Doctor, redis: Redis) -> None:
    found = doctor.find()
    assert (found["wrong"], found["warning"]) == ([], [])
    parts = {part for part, _ in found["ok"]}
    assert parts == {
        *("settings", "database", "peppers", "broker", "list celery", "stream", "files")
    }
    shown = run("doctor", **doctor.settings).stdout
    assert "ok       database: its schema is" in shown
    assert not redis.keys()


# --- settings -------------------------------------------------------------------------------------


def test_an_unknown_variable_is_a_warning_with_the_closest_name(doctor: Doctor) -> None:
    assert doctor.warnings(GROUP_MX="5", SERVICE_HOST="10.0.0.1") == [
        (
            "settings",
            "CARD_WORKER_GROUP_MX is no setting; did you mean CARD_WORKER_GROUP_MAX?",
        ),
        (
            "settings",
            "CARD_WORKER_SERVICE_HOST is no setting; did you mean CARD_WORKER_METRICS_HOST?",
        ),
    ]


def test_wrong_settings_are_named_and_nothing_else_is_checked(doctor: Doctor) -> None:
    found = doctor.find(GROUP_MAX="0", GROUP_MX="1")
    assert found["wrong"] == [("settings", "CARD_WORKER_GROUP_MAX: must be at least 1")]
    assert [part for part, _ in found["warning"]] == ["settings"]
    assert found["ok"] == []
    missing = run("doctor", BROKER_URL=NOWHERE)
    assert "wrong    settings: CARD_WORKER_DATABASE_URL: missing" in missing.stdout
    assert missing.exit_code == 1


# --- database -------------------------------------------------------------------------------------


def test_a_missing_file_is_named_and_not_created(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    (finding, *_) = doctor.wrong(DATABASE_URL=f"sqlite:///{file}")
    assert finding == ("database", f"the file {file} does not exist")


def test_a_schema_of_another_version(doctor: Doctor, orders: Orders) -> None:
    with orders.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    ((part, problem),) = doctor.wrong()
    assert part == "database"
    assert problem.startswith(f"the database's schema is 0001, this version needs {newest()}")


@pytest.fixture
def postgres(doctor: Doctor, postgres_server: servers.Server) -> Iterator[str]:
    """A database with its own roles; the login is a superuser."""
    with servers.database(postgres_server) as url:
        upgrade(url)
        doctor.settings["DATABASE_URL"] = url
        yield url


def administer(url: str, *statements: str) -> None:
    """Run statements; `NAME` in them stands for the name of the database."""
    name = str(make_url(url).database)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.replace("NAME", name).encode())


def test_settings_of_postgresql(doctor: Doctor, postgres: str) -> None:
    # The server of the tests waits for no disk.
    unsafe = [
        "fsync is off: a crash loses commits whose events are published, or the whole database",
        "full_page_writes is off: a crash may damage the database",
    ]
    found = doctor.find()
    assert [text for _, text in found["wrong"]] == unsafe
    ((_, superuser),) = found["warning"]
    assert superuser.endswith("is a superuser, and may change the history")
    assert ("database", "all roles have their rights") in found["ok"]
    administer(
        postgres,
        'ALTER DATABASE "NAME" SET synchronous_commit = off',
        'ALTER DATABASE "NAME" SET default_transaction_read_only = on',
    )
    texts = [text for _, text in doctor.wrong()]
    assert "it is read-only for this login" in texts
    lost = "a crash loses commits whose events are published"
    assert f"synchronous_commit is off: {lost}" in texts


def test_rights_of_postgresql(doctor: Doctor, postgres: str) -> None:
    logins = servers.role_urls(postgres)
    found = doctor.find(DATABASE_URL=logins[Role.OPERATOR])
    assert found["warning"] == []
    assert not [text for _, text in found["wrong"] if "fsync" not in text and "full_" not in text]
    status = run("status", **doctor.settings | {"DATABASE_URL": logins[Role.OPERATOR]})
    assert status.exit_code == 0, status.output
    reader = doctor.warnings(DATABASE_URL=logins[Role.READER])
    for table, name in (("tokens", "TOKEN_PEPPERS"), ("pins", "PIN_PEPPERS")):
        assert ("peppers", f"{name} not checked: permission denied for table {table}") in reader
    database = make_url(postgres).database
    administer(
        postgres,
        'REVOKE UPDATE (state) ON cards FROM "NAME_worker"',
        'REVOKE SELECT ON outbox FROM "NAME_relay"',
    )
    lacks = (
        f"{database}_worker lacks UPDATE on cards.state; {database}_relay lacks SELECT on outbox"
    )
    assert ("database", lacks) in doctor.wrong()


def test_roles_that_do_not_exist(doctor: Doctor, postgres_url: str) -> None:
    # A copy has the roles of its template.
    name = make_url(postgres_url).database
    warnings = doctor.warnings(DATABASE_URL=postgres_url)
    assert any(f"there is no role {name}_owner" in text for _, text in warnings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ENCODING SQL_ASCII LOCALE 'C'", "its encoding is SQL_ASCII"),
        ("ENCODING LATIN1 LOCALE 'C'", "its encoding is LATIN1"),
        (
            "ENCODING UTF8 LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
            "but its indexes were made with 0: they may be out of order",
        ),
    ],
)
def test_encoding_and_collation(
    doctor: Doctor, postgres_server: servers.Server, options: str, words: str
) -> None:
    name = "doctor_" + os.urandom(4).hex()
    url = make_url(postgres_server.url).set(database=name).render_as_string(hide_password=False)
    administer(postgres_server.url, f"CREATE DATABASE {name} {options} TEMPLATE template0")
    try:
        changed = "UPDATE pg_database SET datcollversion = '0' WHERE datname = 'NAME'"
        administer(url, f"{changed} AND datlocprovider = 'b'")
        assert any(words in text for _, text in doctor.wrong(DATABASE_URL=url))
    finally:
        administer(postgres_server.url, f"DROP DATABASE {name}")


def test_a_standby_and_an_old_version() -> None:
    safe = ("synchronous_commit", "fsync", "full_page_writes")
    settings = dict.fromkeys(safe, "on") | {
        "default_transaction_read_only": "off",
    }
    state = PostgresState(settings, True, "C", None, None, False, "worker")
    (standby, _) = postgres_findings(state)
    assert (standby.level, standby.text) == (Level.WRONG, "it is a standby")
    assert database_version("postgresql", (14, 2)).level is Level.WRONG
    assert database_version("postgresql", (15, 0)).level is Level.OK


def test_a_clock_that_is_off(doctor: Doctor, postgres_url: str) -> None:
    settings = {**doctor.settings, "DATABASE_URL": postgres_url}
    done = subprocess.run(
        [sys.executable, str(OFF_CLOCK), "600", "card_worker.cli", "doctor"],
        env={f"CARD_WORKER_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    for part in ("database", "broker"):
        assert f"{part}: this machine's clock is 600 s ahead of the server's" in done.stdout


def test_peppers_that_are_missing(doctor: Doctor, orders: Orders) -> None:
    orders.order(1, **CODES)
    orders.work()
    warnings = [text for part, text in doctor.warnings() if part == "peppers"]
    assert [text.partition(",")[0] for text in warnings] == [
        "TOKEN_PEPPERS is not set here",
        "PIN_PEPPERS is not set here",
    ]
    other = {"TOKEN_PEPPERS": new_pepper("t2"), "PIN_PEPPERS": new_pepper("p1")}
    assert doctor.wrong(**other) == [
        ("peppers", "CARD_WORKER_TOKEN_PEPPERS has no t1, and there are rows that need it")
    ]
    both = f"{new_pepper('t2')},{new_pepper('t1')}"
    assert doctor.wrong(**other | {"TOKEN_PEPPERS": both}) == []


# --- Redis ----------------------------------------------------------------------------------------


def fill(redis: Redis) -> None:
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.1))


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (lambda r: r.config_set("maxmemory-policy", "allkeys-lru"), "wrong", "is allkeys-lru"),
        (lambda r: r.config_set("appendonly", "no"), "wrong", "appendonly is off"),
        (lambda r: r.config_set("appendfsync", "no"), "warning", "appendfsync is no"),
        (lambda r: r.config_set("maxmemory", 0), "warning", "maxmemory is not set"),
        (fill, "warning", "% of maxmemory are used"),
        (lambda r: r.config_set("maxmemory", 1), "wrong", "% of maxmemory are used"),
        (lambda r: r.replicaof("127.0.0.1", 1), "wrong", "is a replica"),
    ],
    ids=["policy", "appendonly", "appendfsync", "no limit", "nearly full", "full", "replica"],
)
def test_policies_of_redis(
    doctor: Doctor, redis: Redis, change: Callable[[Redis], object], level: str, words: str
) -> None:
    change(redis)
    found = doctor.find()
    ((_, problem),) = found["wrong"] + found["warning"]
    assert found[level] == [("broker", problem)]
    assert words in problem


def test_an_append_only_file_that_can_not_be_rewritten(
    doctor: Doctor, redis: Redis, own_broker: Valkey
) -> None:
    folder = own_broker.folder / "appendonlydir"
    folder.rename(own_broker.folder / "moved")
    folder.write_text("in its place")
    with suppress(ResponseError):
        redis.bgrewriteaof()
    while redis.info("persistence")["aof_rewrite_in_progress"]:
        pass
    problems = [text for _, text in doctor.wrong()]
    assert "the append-only file can't be rewritten" in problems


def test_a_cluster_and_an_old_version() -> None:
    info = {"redis_version": "6.0.20", "role": "master"}
    assert redis_version("broker", "Redis 6.0.20", info).level is Level.WRONG
    assert redis_version("broker", "", info | {"redis_version": "6.2.0"}).level is Level.OK
    cluster = redis_version("broker", "", info | {"redis_version": "8.0.0", "cluster_enabled": 1})
    assert "is a cluster" in cluster.text


def test_commands_on_the_default_queue(doctor: Doctor, redis: Redis) -> None:
    redis.rpush("celery", b"\xff")
    with Celery(broker=doctor.settings["BROKER_URL"], set_as_current=False) as client:
        client.send_task("cards.block", kwargs={})
        client.send_task("of.another.application")
    assert doctor.wrong() == [
        (
            "list celery",
            "commands wait there, and no worker reads it: 1 of the oldest messages",
        )
    ]


# --- stream ---------------------------------------------------------------------------------------


def publish(doctor: Doctor, engine: Engine) -> None:
    with begin(engine) as (connection, _):
        events = first_unpublished(connection, 100)
    broker = RedisAddress.parse(doctor.settings["BROKER_URL"])
    sink = RedisStream(broker, "card-events", entries_max=1_000_000, keep_s=604_800)
    sink.publish(events)
    sink.close()


def create(orders: Orders, card_id: str, amount: int = 500) -> dict[str, Any]:
    return orders.ask("cards.create", card_id, card_id=card_id, amount=amount, currency="NOK")


def of_stream(findings: list[Finding]) -> list[str]:
    return [text.partition(", the first")[0] for part, text in findings if part == "stream"]


def test_a_stream_that_is_ahead_of_a_restored_database(
    doctor: Doctor, orders: Orders, tmp_path: Path
) -> None:
    create(orders, "before")
    publish(doctor, orders.engine)
    assert of_stream(doctor.find()["ok"]) == ["the outbox agrees with the last 1 events"]
    restored = f"sqlite:///{tmp_path}/restored.db"
    with orders.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM INTO :file"), {"file": f"{tmp_path}/restored.db"})
    create(orders, "after")
    publish(doctor, orders.engine)
    lost = "events that the outbox does not have: 1 of the last 3"
    assert of_stream(doctor.wrong(DATABASE_URL=restored)) == [lost]
    engine = open_engine(restored)
    create(Orders(engine), "after", 600)
    engine.dispose()
    changed = "events that are different in the outbox: 1 of the last 3"
    assert of_stream(doctor.wrong(DATABASE_URL=restored)) == [changed]
    assert doctor.wrong() == []


def test_an_answer_that_was_repeated_is_compared_by_the_first_answer(
    doctor: Doctor, orders: Orders
) -> None:
    event = create(orders, "first")
    id, account_id, type = UUID(event["id"]), event["data"]["account_id"], EventType(event["type"])
    made_at = read_time(event["time"])
    first = Answer(id, account_id, type, "first", "first", write_json(event), made_at)
    content = f'{{"command":"cards.create","account_id":"{account_id}"}}'
    broker = RedisAddress.parse(doctor.settings["BROKER_URL"])
    sink = RedisStream(broker, "card-events", entries_max=1_000_000, keep_s=604_800)
    sink.publish([repeated(first, "another"), repeated(first._replace(event=content), "a third")])
    sink.close()
    assert of_stream(doctor.find()["ok"]) == ["the outbox agrees with the last 2 events"]


def test_an_event_whose_content_was_deleted_is_not_compared(doctor: Doctor, orders: Orders) -> None:
    create(orders, "first")
    publish(doctor, orders.engine)
    with begin(orders.engine) as (connection, _):
        connection.execute(text("DROP TRIGGER IF EXISTS outbox_update"))
        connection.execute(text("UPDATE outbox SET event = '{}'"))
    assert of_stream(doctor.find()["ok"]) == ["the outbox agrees with the last 1 events"]


def test_a_consumer_group_that_is_behind(doctor: Doctor, orders: Orders, redis: Redis) -> None:
    create(orders, "first")
    publish(doctor, orders.engine)
    redis.xgroup_create("card-events", "books", id="0")
    assert of_stream(doctor.warnings()) == []
    doctor.settings["EVENT_STREAM_MAX"] = "2"
    (warning,) = of_stream(doctor.warnings())
    assert warning.startswith("consumer group books is behind by 1 entries and ")


def test_a_stream_that_is_empty_and_one_with_other_entries(
    doctor: Doctor, orders: Orders, redis: Redis
) -> None:
    create(orders, "first")
    assert of_stream(doctor.warnings()) == ["card-events is empty, and the outbox has events"]
    others: list[str | bytes] = [
        "{}",
        b"\xff",
        "[" * 100_000,
        '{"type": "card.activated", "id": 5}',
        '{"type": "command.repeated", "data": []}',
    ]
    for event in others:
        redis.xadd("card-events", {"event": event})
    texts = of_stream(doctor.warnings())
    assert texts[0] == "entries that are no events of ours: 5 of the last 5"


# --- files, and servers that are away -------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("/nowhere/at-all", "warning", "/nowhere/at-all does not exist on this machine"),
        ("/proc", "wrong", "/proc can't be written: FileNotFoundError"),
        ("/sys", "warning", "this user may not write to /sys"),
        ("s3://bucket/files", "wrong", "s3://...: ImportError: a library for it is missing"),
    ],
)
def test_a_store_that_can_not_be_written(doctor: Doctor, url: str, level: str, words: str) -> None:
    found = doctor.find(FILES_URL=url)
    assert found["wrong"] + found["warning"] == [("files", words)]
    assert found[level]


def test_a_file_that_could_not_be_written(doctor: Doctor, orders: Orders) -> None:
    orders.order(1, **CODES)
    orders.work()
    file = orders.file()
    with begin(orders.engine) as (connection, now):
        mark_failed(connection, file, now, "disk full")
    assert ("files", "files of batches that could not be written: 1") in doctor.warnings()


def test_servers_that_are_away(doctor: Doctor) -> None:
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/cards", "BROKER_URL": NOWHERE}
    found = doctor.find(**nowhere)
    parts = [part for part, _ in found["wrong"]]
    assert parts == ["database", "peppers", "broker", "stream", "files"]
    assert [part for part, _ in found["ok"]] == ["settings", "files"]
