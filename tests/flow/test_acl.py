"""Each part works with just the rights that `card-worker acl` prints, and is refused all else."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from typer.testing import CliRunner

from card_worker.cli import app
from card_worker.client import Client
from card_worker.contracts.batches import CreateBatch
from card_worker.contracts.cards import CreateCard
from card_worker.embedded.valkey import NoServer, find_binary
from card_worker.money import Currency
from card_worker.transport.in_flight import ENTRY_BYTES_MAX
from tests import servers
from tests.flow.processes import WAIT_S, Parts, flower_address, parts, until
from tests.flow.system import ACCOUNT, card, envelope
from tests.flow.test_redis_urls import Flower, has_swept

USERS = (
    "producer",
    "querying-producer",
    "reader",
    "relay",
    "worker",
    "beat",
    "flower",
    "operator",
    "health",
)
BECOME = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"


class Server:
    """A server with the users of `card-worker acl`, and one that may do everything."""

    def __init__(self, running: Parts, folder: Path) -> None:
        self.socket = folder / "valkey.sock"
        passwords = folder / "passwords"
        passwords.mkdir()
        for user in USERS:
            (passwords / user).write_text(f"secret of {user}\n")
        printed = CliRunner().invoke(app, ["acl", f"--passwords={passwords}"])
        assert printed.exit_code == 0, printed.output
        assert "secret" not in printed.output
        acl = folder / "users.acl"
        acl.write_text(f"{printed.stdout}user admin on >admin ~* &* +@all\n")
        options = ["--port", "0", "--save", "", "--unixsocket", str(self.socket)]
        options += ["--enable-debug-command", "yes"]  # so that only the rights refuse it
        self.part = running.run("-c", BECOME, find_binary(), *options, "--aclfile", str(acl))
        self.admin = self.client("admin", "admin")

    def client(self, user: str, password: str | None = None) -> "Redis":
        return Redis(
            unix_socket_path=str(self.socket),
            username=user,
            password=password or f"secret of {user}",
            decode_responses=True,
        )

    def answers(self) -> bool:
        with suppress(RedisError):
            return bool(self.admin.ping())
        return False

    def url(self, user: str, scheme: str = "unix") -> str:
        return f"{scheme}://{user}:secret%20of%20{user}@{self.socket}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ExitStack() as running:
        # Longer paths, such as those of pytest's folders, may be too long for a socket.
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="card_worker-")))
        try:
            made = Server(running.enter_context(parts(folder / "server")), folder)
        except NoServer as error:
            servers.missing(error, "PATH")
        until(made.answers, "the server")
        yield made
        made.admin.close()


def stock_app(server: Server, user: str, *, with_results: bool = False) -> Celery:
    """Return a plain Celery app, with its own transport."""
    url = f"{server.url(user, 'redis+socket')}?virtual_host=0"
    return Celery(broker=url, backend=url if with_results else None, set_as_current=False)


def test_each_part_works_with_its_own_user(server: Server, tmp_path: Path, sqlite_url: str) -> None:
    settings = {"DATABASE_URL": sqlite_url, "SWEEP_INTERVAL_S": "0.5"}
    with parts(tmp_path / "parts", **settings) as running:
        for name, *options in (("worker", "--task-events"), ("relay",), ("beat",)):
            running.start(name, *options, BROKER_URL=server.url(name))
        running.settings["CARD_WORKER_BROKER_URL"] = server.url("flower")
        flower = Flower(running)
        publish_and_read(server)
        flower.shows("/api/workers?refresh=1", has_swept)
        query(server)
        flower.shows("/api/tasks?taskname=cards.get", bool)
        assert_workers_cannot_be_stopped(server, flower)
        handle_dead_letters(server, sqlite_url)
        for part in reversed(running.all):
            part.ask_to_stop()
        assert [part.ended() for part in running.all] == [0] * 4
        assert not [each for each in running.all if "NOPERM" in each.said], "see the logs"
    log: Any = server.admin.acl_log()
    refused = [(each["username"], each["reason"], each["object"]) for each in log]
    # The worker also looks for commands on Celery's default queue, if it may.
    # The doctor looks there too, and status for how long a queue has not moved.
    may_be = {("worker", "command", "lrange")}
    may_be |= {("operator", "command", name) for name in ("lrange", "config|get", "eval")}
    assert set(refused) <= may_be


def publish_and_read(server: Server) -> None:
    with Client(server.url("producer"), events_url=server.url("reader")) as client:
        after = client.newest()
        common: dict[str, Any] = {"account_id": ACCOUNT, "currency": Currency.NOK, "amount": 500}
        names = [f"acl-{number}" for number in range(3)]
        client.send([CreateCard(command_id=id, card_id=id, **common) for id in names[:2]])
        client.send_list([CreateCard(command_id=names[2], card_id=names[2], **common)])
        client.send(
            CreateBatch(
                account_id=ACCOUNT, command_id="order", count=3, card_id_pattern="ACL-{n:08d}"
            )
        )
        with stock_app(server, "producer") as stock:
            stock.send_task(
                "cards.create", kwargs=card("stock"), task_id="stock", queue="cards", priority=3
            )
        ids = [*names, "order", "stock"]
        answers = client.answers(ids, account_id=ACCOUNT, after=after, timeout_s=WAIT_S)
        assert answers.keys() == set(ids)
        events = client.events(after, timeout_s=WAIT_S)
        assert any(event["type"] == "batch.completed" for event in events)
    with server.client("reader") as reader:
        reader.xgroup_create("card-events", "books", id="0", mkstream=True)
        ((_, entries),) = reader.xreadgroup("books", "one", {"card-events": ">"}, count=10)
        assert reader.xack("card-events", "books", *(entry for entry, _ in entries))


def query(server: Server) -> None:
    with stock_app(server, "querying-producer", with_results=True) as stock:
        fields = {"account_id": ACCOUNT, "card_id": "stock"}
        asked = stock.send_task("cards.get", kwargs=fields, queue="cards")
        assert asked.get(timeout=WAIT_S)["card"]["card_id"] == "stock"


def assert_workers_cannot_be_stopped(server: Server, flower: Flower) -> None:
    """Neither through Flower's page nor with Flower's user; later commands are still answered."""
    (name,) = json.loads(flower.shows("/api/workers", bool))
    address = f"http://{flower_address(flower.part)}/api/worker/shutdown/{name}"
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(address, method="POST"), timeout=WAIT_S)
    assert refused.value.code in (401, 403, 405)
    with stock_app(server, "flower") as stock:
        stock.control.shutdown()


def handle_dead_letters(server: Server, database_url: str) -> None:
    environment = {
        "CARD_WORKER_DATABASE_URL": database_url,
        "CARD_WORKER_BROKER_URL": server.url("operator"),
    }

    def cli(*arguments: str) -> list[Any]:
        done = CliRunner().invoke(app, arguments, env=environment)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    # One can't be read, the other one is too large to be read.
    server.admin.lpush("cards", json.dumps(envelope("cards.explode", "unknown")))
    server.admin.lpush("cards", b"x" * (ENTRY_BYTES_MAX + 1))
    until(lambda: len(cli("dead-letters", "list", "--json")) == 2, "the dead letters")
    for letter in cli("dead-letters", "list", "--json"):
        verb = "requeue" if letter["task"] else "drop"
        cli("dead-letters", verb, str(letter["id"]))
    assert cli("events", "tail", "--from-start", "--count=1", "--json")
    (status,) = cli("status", "--json")
    assert status["broker"]["workers_working"] == 1
    assert status["database"]["relay_works"]
    done = CliRunner().invoke(app, ["doctor"], env=environment)
    assert "not checked" not in done.stdout
    assert "messages wait there" not in done.stdout
    server.admin.lpush("celery", "x")
    done = CliRunner().invoke(app, ["doctor"], env=environment)
    assert "messages wait there, perhaps commands of ours: 1" in done.stdout
    server.admin.delete("celery")


EVERYBODY = [
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "FLUSHALL",
    "FLUSHDB",
    "ACL LIST",
    "ACL SETUSER producer allcommands",
    "DEBUG SLEEP 0",
    "SHUTDOWN NOSAVE",
    "KEYS *",
    "SCAN 0",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "MONITOR",
    "SAVE",
    "REPLICAOF NO ONE",
    "MODULE LIST",
    "FUNCTION LIST",
    "SCRIPT FLUSH",
    "SWAPDB 0 1",
    "GET other",
    "SET other 1",
    "XTRIM other MAXLEN 0",
    "SUBSCRIBE other",
    "PSUBSCRIBE *",
    "PUBLISH other x",
]
READS_NO_QUEUE = [
    *(f"{command} cards 0 -1" for command in ("LRANGE", "LTRIM")),
    *(f"{command} cards" for command in ("LPOP", "RPOP", "DEL", "UNLINK", "DUMP", "TYPE")),
    "BRPOP cards 1",
    "LINDEX cards 0",
    "LMOVE cards cards LEFT RIGHT",
    "RENAME cards other",
    "HGETALL inflight.of.x",
    "SORT cards",
    "COPY cards other",
    "EVAL `return redis.call('LRANGE', 'cards', 0, -1)` 0",
    "EVAL `return redis.call('HGETALL', 'inflight.of.x')` 0",
]
SEES_NO_STATE = ["INFO", "ZRANGE inflight.consumers 0 -1", "HLEN inflight.of.x"]
READS_NO_STREAM = ["XRANGE card-events - +", "XREAD STREAMS card-events 0"]
WRITES_NO_STREAM = [
    "XADD card-events * a a",
    "XDEL card-events 0-1",
    "XTRIM card-events MAXLEN 0",
    "XSETID card-events 0-1",
    "DEL card-events",
    "EVAL `return redis.call('XADD', 'card-events', '*', 'a', 'a')` 0",
]
SENDS_NOTHING = [
    "LPUSH cards x",
    "RPUSH cards x",
    "SADD _kombu.binding.cards x",
    "EVAL `return redis.call('LPUSH', 'cards', 'x')` 0",
]
NO_SCRIPTS = ["EVAL `return 1` 0", "EVALSHA x 0", "SCRIPT LOAD `return 1`", "FCALL x 0"]
NO_RESULTS = ["GET celery-task-meta-x", "SUBSCRIBE celery-task-meta-x"]
NOT_WITHOUT_ID = ["PSUBSCRIBE celery-task-meta-*", "SET celery-task-meta-x 1"]
NO_REMOTE_CONTROL = ["PUBLISH /0.celery.pidbox x", "PSUBSCRIBE /0.celeryev/*"]
REFUSED = {
    "producer": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *READS_NO_STREAM, *WRITES_NO_STREAM, *NO_SCRIPTS, *NO_RESULTS),
        *(*NO_REMOTE_CONTROL, "LPUSH cards.system x", "SREM _kombu.binding.cards x"),
    ],
    "querying-producer": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *READS_NO_STREAM, *WRITES_NO_STREAM, *NO_SCRIPTS, *NOT_WITHOUT_ID),
        *(*NO_REMOTE_CONTROL, "LPUSH cards.system x", "MGET other"),
    ],
    "reader": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *WRITES_NO_STREAM, *SENDS_NOTHING, *NO_SCRIPTS, *NO_RESULTS),
        *(*NO_REMOTE_CONTROL, "XGROUP DESTROY card-events books"),
    ],
    # It reads the stream to see how far behind its consumer groups are.
    "relay": [
        *(*READS_NO_QUEUE, *SENDS_NOTHING, *NO_RESULTS, *NO_REMOTE_CONTROL, *SEES_NO_STATE),
    ],
    "worker": [*READS_NO_STREAM, *WRITES_NO_STREAM, "LPUSH other x"],
    "beat": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *READS_NO_STREAM, *WRITES_NO_STREAM, *SENDS_NOTHING, *NO_RESULTS),
        *NO_REMOTE_CONTROL,
    ],
    "flower": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *READS_NO_STREAM, *WRITES_NO_STREAM, *SENDS_NOTHING, *NO_RESULTS),
        *("LLEN cards.other", "LLEN card-events"),
    ],
    "operator": [
        *READS_NO_QUEUE,
        *NO_SCRIPTS,
        *NO_RESULTS,
        *NO_REMOTE_CONTROL,
        "XADD card-events * a a",
    ],
    "health": [
        *SEES_NO_STATE,
        *(*READS_NO_QUEUE, *READS_NO_STREAM, *WRITES_NO_STREAM, *SENDS_NOTHING, *NO_SCRIPTS),
        *(*NO_RESULTS, *NO_REMOTE_CONTROL),
    ],
}


def words_of(command: str) -> list[str]:
    """Split a command at its blanks; what is between backquotes is one word."""
    parts = command.split("`")
    return [word for n, part in enumerate(parts) for word in ([part] if n % 2 else part.split())]


@pytest.mark.parametrize("user", REFUSED)
def test_a_user_is_refused_what_its_part_does_not_need(user: str, server: Server) -> None:
    allowed = []
    for command in EVERYBODY + REFUSED[user]:
        with server.client(user) as client:
            try:
                client.execute_command(*words_of(command))
            except NoPermissionError:
                continue
            except RedisError as error:
                if "permission" in str(error):  # within a script
                    continue
                allowed.append(f"{command}: {error}")
            else:
                allowed.append(command)
    assert allowed == []
    assert server.part.runs


def test_flower_may_count_what_waits(server: Server) -> None:
    with server.client("flower") as flower, flower.pipeline() as pipeline:
        for name in ("cards", "cards.bulk\x06\x163", "cards.system\x06\x169"):
            pipeline.llen(name)
        assert len(pipeline.execute()) == 3


def test_nobody_without_a_password_may_do_anything(server: Server) -> None:
    with server.client("health") as health:
        assert health.ping()
    with (
        Redis(unix_socket_path=str(server.socket)) as anybody,
        pytest.raises(RedisError, match="authenticate"),
    ):
        anybody.ping()
    with server.client("producer", "wrong") as wrong, pytest.raises(AuthenticationError):
        wrong.ping()


def test_every_user_is_tested() -> None:
    printed = CliRunner().invoke(app, ["acl"]).stdout
    users = [line.split()[1] for line in printed.splitlines()]
    assert users == ["default", *USERS]
    assert REFUSED.keys() == set(USERS)
    assert printed.count("#SHA256-OF-THE-PASSWORD ") == len(USERS)


def test_the_rights_follow_from_the_settings() -> None:
    settings = {
        "CARD_WORKER_BROKER_URL": "redis://host/3",
        "CARD_WORKER_EVENT_STREAM": "events[1]",
        "CARD_WORKER_ALSO_CONSUME": "celery",
    }
    printed = CliRunner().invoke(app, ["acl"], env=settings).stdout
    users = {line.split()[1]: line.split() for line in printed.splitlines()}
    assert "&/3.celery.pidbox" in users["worker"]
    assert {"~celery", "%W~celery"} <= {*users["worker"], *users["producer"]}
    assert r"~events\[1\]" in users["reader"]
    blank = CliRunner().invoke(app, ["acl"], env={"CARD_WORKER_EVENT_STREAM": "my events"})
    assert (blank.exit_code, blank.stdout) == (2, "")


def test_a_file_without_passwords_is_refused_by_redis(server: Server, tmp_path: Path) -> None:
    (line,) = [
        line for line in CliRunner().invoke(app, ["acl"]).stdout.splitlines() if "beat" in line
    ]
    with pytest.raises(RedisError, match="hash"):
        server.admin.execute_command("ACL", "SETUSER", *line.split()[1:])  # type: ignore[no-untyped-call]
    for user in USERS:
        (tmp_path / user).write_text("\n")
    empty = CliRunner().invoke(app, ["acl", f"--passwords={tmp_path}"])
    assert (empty.exit_code, empty.stdout) == (2, "")
    assert "is empty" in empty.stderr
