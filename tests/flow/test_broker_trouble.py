"""A Redis that fails in many ways: no process ends, all continue, no message is lost or stuck."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError
from sqlalchemy import text

from card_worker.cli import processes
from card_worker.embedded.valkey import Valkey, valkey
from card_worker.health import living
from card_worker.transport.channel import POLL_S
from card_worker.transport.in_flight import ENTRY_BYTES_MAX
from card_worker.worker.grouping import HEALTH_S
from tests.chaos.servers.broker import USER, Broker
from tests.flow.processes import PARTS, until
from tests.flow.system import System, envelope, system
from tests.flow.test_relay import write
from tests.proxy import Proxy, proxy

AWAY = "broker unavailable, retrying"
RECOVERY_S_MAX = 120.0
"""Some seconds, and what a busy machine adds."""
LINES_MAX = 40
"""Log lines that a part may write of an outage of some seconds."""


@contextmanager
def locked(own: System, card_id: str) -> Iterator[None]:
    """Hold a card, so that a commit which needs it waits."""
    with own.engine.begin() as connection:
        connection.execute(
            text("SELECT FROM cards WHERE card_id = :id FOR UPDATE"), {"id": card_id}
        )
        yield


def update(own: System, command_id: str, card_id: str = "before") -> None:
    own.send("cards.update", command_id, card_id=card_id, name=command_id)


# --- a server that refuses ------------------------------------------------------------------------


def run(redis: Redis, *command: str) -> None:
    """Run a command that redis-py has no method for."""
    redis.execute_command(*command)  # type: ignore[no-untyped-call]


class Server:
    """A Valkey of the test's own, and how it comes to refuse what it is asked."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.redis = broker.client(timeout_s=60)

    def readonly(self) -> None:
        run(self.redis, "REPLICAOF", "127.0.0.1", "1")

    def masterdown(self) -> None:
        self.redis.config_set("replica-serve-stale-data", "no")
        self.readonly()

    def noreplicas(self) -> None:
        self.redis.config_set("min-replicas-to-write", 1)

    def misconf(self) -> None:
        self.redis.config_set("save", "3600 1")
        shutil.rmtree(self.broker.folder)  # it can't write a snapshot any more
        self.redis.bgsave()
        until(lambda: self._info("rdb_last_bgsave_status") == "err", "the failure")

    def busy(self) -> None:
        self.redis.config_set("busy-reply-threshold", 1)
        Thread(target=self._run_for_ever, daemon=True).start()
        until(self._is_busy, "the script that goes on")

    def nopermission(self) -> None:
        run(self.redis, "ACL", "SETUSER", USER, "-eval", "-hdel", "-lpush")

    def oom(self) -> None:
        self.redis.config_set("maxmemory", 1)

    def loading(self) -> None:
        """Restart it; reading its data back takes ten minutes, unless it is mended."""
        self.redis.config_set("rdbcompression", "no")  # it serves clients after each 1,024 bytes
        self.redis.mset({f"filler:{number}": "x" * 1024 for number in range(12_000)})
        self.redis.bgrewriteaof()  # only in a snapshot there is a delay for each key
        until(lambda: self._info("aof_rewrite_in_progress") == "0", "the snapshot")
        self.broker.kill()
        self.broker.start(load_delay_us=50_000, wait=False)
        until(self.broker.is_loading, "the slow start")

    def silent(self) -> None:
        self.broker.signal(signal.SIGSTOP)

    def well(self) -> None:
        """Mend all of that."""
        self.broker.signal(signal.SIGCONT)
        while self._is_busy():
            self.redis.script_kill()
            sleep(0.05)
        self.redis.config_set("key-load-delay", 0)
        until(lambda: not self.broker.is_loading(), "the end of the slow start")
        self.redis.config_set("maxmemory", 0)
        run(self.redis, "ACL", "SETUSER", USER, "+@all")
        run(self.redis, "REPLICAOF", "NO", "ONE")
        self.redis.config_set("min-replicas-to-write", 0)
        self.redis.config_set("stop-writes-on-bgsave-error", "no")

    def _info(self, name: str) -> str:
        about: Any = self.redis.info("persistence")
        return str(about[name])

    def _run_for_ever(self) -> None:
        with self.broker.client(timeout_s=600) as own:
            try:
                own.eval("while true do end", 0)
            except RedisError:
                return

    def _is_busy(self) -> bool:
        try:
            self.redis.ping()
        except RedisError as error:
            return "BUSY" in str(error)
        return False


STATES = [
    *("readonly", "masterdown", "noreplicas", "misconf", "busy"),
    *("nopermission", "oom", "loading", "silent"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    broker = Broker(tmp_path / "broker")
    broker.start()
    try:
        yield Server(broker)
    finally:
        broker.stop()


@pytest.fixture
def on_server(server: Server, tmp_path: Path, postgres_url: str) -> Iterator[System]:
    url = server.broker.url(server.broker.port)
    with system(tmp_path, database_url=postgres_url, broker_url=url) as made:
        yield made


@pytest.mark.parametrize("state", STATES)
def test_no_state_of_redis_ends_a_process(state: str, server: Server, on_server: System) -> None:
    own = on_server
    worker = own.start("worker", GROUP_MAX="5")
    relay, beat = own.start("relay"), own.start("beat", SWEEP_INTERVAL_S="0.5")
    own.create("before")
    own.answers("before")
    until(lambda: beat.said.count("sweep requested") >= 4, "the first sweeps")
    with locked(own, "before"):
        update(own, "at-work")
        until(lambda: own.held() == 1, "the commit that waits")
        getattr(server, state)()
    # It can be committed now, but acknowledged only by a full server: what frees memory it allows.
    if state != "oom":
        worker.says(AWAY)
    write(own.engine, "beside")  # and this can't be published
    relay.says("database or sink unavailable, retrying")
    beat.says(AWAY)
    late = [own.start("worker", "--hostname=late@%h"), own.start("relay"), own.start("beat")]
    if state not in ("nopermission", "oom"):  # one ends a start, the other lets a worker work
        late[0].says(AWAY)
    if state != "nopermission":
        late[2].says(AWAY)
    server.well()
    recovered_at = monotonic()
    own.create(*(f"after-{number}" for number in range(12)))
    own.answers("at-work", *(f"after-{number}" for number in range(12)))
    assert monotonic() - recovered_at < RECOVERY_S_MAX
    until(lambda: own.waiting() == 0, "the acknowledgements")
    sweeps = beat.said.count("sweep requested")
    until(lambda: beat.said.count("sweep requested") > sweeps, "the next sweep")
    parts = [worker, relay, beat, *(late if state != "nopermission" else ())]
    for part in parts:
        assert part.runs, part.tail
        assert "Traceback" not in part.said
        assert part.said.count("unavailable, retrying") < LINES_MAX


def test_a_server_that_answers_too_late_to_acknowledge_costs_no_room(
    tmp_path: Path, postgres_url: str, own_broker: Valkey
) -> None:
    with proxy(own_broker.port) as between:
        url = f"redis://127.0.0.1:{between.port}/0"
        with system(tmp_path, database_url=postgres_url, broker_url=own_broker.url) as own:
            worker = own.start("worker", GROUP_MAX="5", BROKER_URL=url)
            own.start("relay")
            own.create("before")
            own.answers("before")
            for turn, hold in enumerate((Proxy.hold_replies, Proxy.pause)):
                with locked(own, "before"):
                    for number in range(5):
                        update(own, f"{turn}-{number}")
                    until(lambda: own.held() == 5, "the commit that waits")
                    hold(between)
                worker.says(AWAY, times=2 * turn + 1)
                between.resume()
                own.answers(*(f"{turn}-{number}" for number in range(5)))
            own.create(*(f"after-{number}" for number in range(20)))
            own.answers(*(f"after-{number}" for number in range(20)))
            until(lambda: own.waiting() == 0, "the acknowledgements")
            assert worker.runs


def test_a_full_server_is_drained_by_a_worker_that_starts(own: System, own_broker: Valkey) -> None:
    names = [f"card-{number}" for number in range(300)]
    own.create(*names)
    own.redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        own.redis.lpush("cards", "x")
    worker = own.start("worker")
    until(lambda: own.waiting() == 0, "the drained queue")
    run(own.redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    worker.says(AWAY)
    own.redis.config_set("maxmemory", 0)
    own.start("relay")
    own.create("after")
    assert set(own.types("after", *names)) == {"card.created"}
    assert worker.runs


# --- what waiting can't mend ----------------------------------------------------------------------


def allow(own: System, *rights: str) -> None:
    """Let a user `someone` with the password `right` do this and nothing else."""
    run(own.redis, "ACL", "SETUSER", "someone", "on", ">right", "~*", "&*", *rights)


@pytest.mark.parametrize("part", ["worker", "relay", "beat"])
@pytest.mark.parametrize(
    "wrong",
    [
        ("+@all -eval", "right", 0, "EVAL"),
        ("+@all", "wrong", 0, "the connection"),
        ("+@all", "right", 99, "the connection"),
    ],
    ids=["NOPERM", "WRONGPASS", "database"],
)
def test_a_start_that_cannot_succeed_ends_with_one_line(
    part: str, wrong: tuple[str, str, int, str], own: System, own_broker: Valkey
) -> None:
    rights, password, db, named = wrong
    allow(own, *rights.split())
    url = f"redis://someone:{password}@127.0.0.1:{own_broker.port}/{db}"
    started = own.start(part, BROKER_URL=url)
    assert started.ended() != 0
    lines = started.said.strip().splitlines()
    (refusal,) = [line for line in lines if "Redis refuses" in line]
    assert named in refusal
    assert "Traceback" not in started.said
    assert password not in refusal


@pytest.mark.parametrize(
    ("command", "named"),
    [
        *(("client|tracking", "CLIENT TRACKING"), ("hset", "HSET"), ("psubscribe", "PSUBSCRIBE")),
        *(
            ("evalsha", "EVALSHA"),
            ("script|load", "SCRIPT LOAD"),
            ("zrangebyscore", "ZRANGEBYSCORE"),
        ),
    ],
)
def test_the_start_names_the_command_that_is_refused(
    command: str, named: str, own: System, own_broker: Valkey
) -> None:
    allow(own, "+@all", f"-{command}")
    url = f"redis://someone:right@127.0.0.1:{own_broker.port}/0"
    worker = own.start("worker", BROKER_URL=url)
    assert worker.ended() != 0
    assert f"Redis refuses {named}" in worker.said.strip().splitlines()[-1]


@pytest.mark.parametrize("missing", ["cards\x06\x169", "_kombu.binding.cards", "inflight.aside"])
def test_a_start_without_a_right_on_a_key_ends_with_one_line(
    missing: str, own: System, own_broker: Valkey
) -> None:
    # Of the names that begin alike, all but the one.
    others = [f"~{missing[:end]}[^{missing[end]}]*" for end in range(len(missing))]
    run(own.redis, "ACL", "SETUSER", "someone", "on", ">right", "&*", "+@all", *others)
    url = f"redis://someone:right@127.0.0.1:{own_broker.port}/0"
    worker = own.start("worker", BROKER_URL=url)
    assert worker.ended() != 0
    assert "Redis refuses EVAL" in worker.said.strip().splitlines()[-1]


# --- entries --------------------------------------------------------------------------------------


def test_an_entry_that_is_too_large_is_set_aside(own: System) -> None:
    worker = own.start("worker")
    own.start("relay")
    raw = os.urandom(ENTRY_BYTES_MAX + 1)
    own.push(raw)
    own.create("behind")
    assert own.types("behind") == ["card.created"]
    until(own.letters, "the letter")
    (letter,) = own.letters()
    assert letter.body == raw[:4096]
    assert letter.detail is not None
    assert f"{len(raw)} bytes" in letter.detail
    assert letter.queue == "cards"
    assert letter.aside_key
    with Redis.from_url(own.broker_url) as redis:
        assert redis.lrange(letter.aside_key, 0, -1) == [raw]
        assert 0 < redis.ttl(letter.aside_key) <= 7 * 24 * 3600
        requeued = own.cli("dead-letters", "requeue", str(letter.id))
        assert (requeued.exit_code, redis.llen("cards")) == (1, 0)
        assert own.cli("dead-letters", "drop", str(letter.id)).exit_code == 0
        assert not redis.exists(letter.aside_key)
    assert worker.runs


# --- what anybody may publish ---------------------------------------------------------------------


def control(body: object, **headers: object) -> bytes:
    """Return a message of Celery's remote control."""
    message = envelope("-", "-", body=json.dumps(body).encode(), headers={"clock": 1, **headers})
    return json.dumps(message).encode()


JUNK: list[bytes] = [
    b"[" * 200_000,
    b"[]",
    b"null",
    b"{",
    b"\xff\xfe",
    b"1" * 5_000,
    b'{"body": 1, "properties": {"delivery_info": {}}}',
    control([]),
    control([1, 2]),
    control("text"),
    control(None),
    control({}),
    control({"method": 1}),
    control({"method": "ping", "arguments": []}),
    control({"method": "ping", "destination": "celery@vm"}),
    control({"method": "ping", "pattern": "(a+)+$", "matcher": "pcre"}),
    control({"method": "ping", "reply_to": {"exchange": "", "routing_key": "cards"}}),
    control({"method": "ping", "reply_to": "cards"}),
    control({"method": "nothing like that"}),
    control({"method": "__class__"}),
    control({"method": "shutdown"}),
    control({"method": "revoke", "arguments": {"task_id": ["x" * 1000] * 100}}),
    control({"method": "hello", "arguments": {"from_node": "x", "revoked": {"y": [1, "z"]}}}),
    control({"method": "election", "arguments": {"id": "x", "topic": "task", "action": {}}}),
    control({"method": "memdump", "arguments": {"samples": 10**9}}),
    control({"method": "ping"}, clock="x"),
    control({"method": "ping"}, clock=10**400),
    control({"method": "ping"}, clock=[]),
    b'{"body": "%s", "properties": {"delivery_info": {}}}' % (b"[" * 50_000),
]


def test_no_published_message_stops_a_worker(own: System) -> None:
    worker = own.start("worker")
    own.start("relay")
    own.create("before")
    own.answers("before")
    channels = own.redis.pubsub_channels()
    patterns = ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat", "/0.celeryev/worker.elect"]
    for number, junk in enumerate(JUNK):
        for channel in {*channels, *patterns}:
            own.redis.publish(channel, junk)
        own.create(f"after-{number}")
    own.answers(*(f"after-{number}" for number in range(len(JUNK))))
    assert worker.runs
    assert "Traceback" not in worker.said
    assert own.letters() == []
    assert own.redis.keys("*reply*") == []


def test_thousands_of_messages_are_logged_in_a_few_lines(own: System) -> None:
    worker = own.start("worker")
    worker.says("ready.")
    for _ in range(1_000):
        own.redis.publish("/0.celery.pidbox", control({"method": "nothing like that"}))
    own.create("after")
    until(lambda: own.rows()["cards"] == 1, "the card")
    assert worker.said.count("remote control messages ignored") < 20


def test_workers_exchange_nothing_with_each_other(own: System) -> None:
    first = own.start("worker")
    first.says("ready.")
    second = own.start("worker", "--hostname=second@%h")
    second.says("ready.")
    assert "mingle" not in second.said
    assert own.redis.pubsub_numpat() == 1  # one pattern: that of remote control


# --- results --------------------------------------------------------------------------------------


def test_a_silent_result_backend_delays_nobody(
    own: System, own_broker: Valkey, tmp_path: Path
) -> None:
    with valkey(tmp_path / "results") as results:
        worker = own.start("worker", RESULT_BACKEND_URL=results.url, GROUP_MAX="1")
        own.start("relay")
        own.create("before")
        own.answers("before")
        os.kill(results.pid, signal.SIGSTOP)
        try:
            own.create(*(f"card-{number}" for number in range(30)))
            own.answers(*(f"card-{number}" for number in range(30)))
            until(lambda: own.waiting() == 0, "the acknowledgements")
            # Each is logged that was waited for.
            assert 1 <= worker.said.count("result backend unavailable") < 8
        finally:
            os.kill(results.pid, signal.SIGCONT)
        assert worker.runs


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "settings"),
    [(signal.SIGQUIT, {}), (signal.SIGTERM, {"REMAP_SIGTERM": "SIGQUIT"})],
    ids=["SIGQUIT", "REMAP_SIGTERM"],
)
def test_a_cold_stop_ends_a_commit_that_waits(
    number: signal.Signals, settings: dict[str, str], own: System
) -> None:
    worker = own.parts.run(*PARTS["worker"], name="worker", env=settings)
    own.start("relay")
    own.create("before")
    own.answers("before")
    with locked(own, "before"):
        update(own, "waits")
        until(lambda: own.held() == 1, "the commit that waits")
        os.kill(worker.pid, number)
        worker.ended()
    until(lambda: own.held() == 0, "the message that goes back")
    own.start("worker", "--hostname=second@%h")
    assert own.types("waits") == ["card.updated"]


@pytest.mark.parametrize("pool", [(), ("--pool", "processes", "--concurrency", "2")], ids=str)
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_a_stop_ends_a_group_that_waits_for_the_database(
    number: signal.Signals, pool: tuple[str, ...], tmp_path: Path, sqlite_url: str, broker_url: str
) -> None:
    with system(tmp_path, database_url=sqlite_url, broker_url=broker_url) as own:
        worker = own.start("worker", *pool)
        worker.says("ready.")
        with own.engine.begin() as connection:
            connection.execute(text("UPDATE cards SET card_id = card_id"))
            own.create("waits")
            worker.says("database unavailable, retrying")
            os.kill(worker.pid, number)
            worker.ended()
        until(lambda: own.held() == 0, "the message that goes back")
        own.start("relay")
        own.start("worker", "--hostname=second@%h")
        assert own.types("waits") == ["card.created"]


def test_a_worker_that_fails_does_not_end_with_0(own: System) -> None:
    # A defect of ours in Celery's loop: the loop can't be made.
    broken = "import card_worker.worker.grouping as g; g.Consumer.create_task_handler = None; "
    run = "import sys; sys.argv = ['x', 'worker']; from card_worker.cli import main; main()"
    worker = own.parts.run("-c", broken + run, name="worker")
    assert worker.ended() != 0
    assert "Unrecoverable error" in worker.said


def test_a_stopped_worker_exits_with_0(own: System) -> None:
    worker = own.parts.run("-m", "card_worker.cli", "worker", name="worker")
    worker.says("ready.")
    assert worker.stop() == 0
    usage = own.parts.run("-m", "card_worker.cli", "worker", "--bogus", name="worker")
    assert usage.ended() == 2
    assert "Traceback" not in usage.said


# --- health ---------------------------------------------------------------------------------------


@pytest.fixture
def checked(own: System, monkeypatch: pytest.MonkeyPatch) -> System:
    """A system whose health can be checked from this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(own.parts.temporary))
    return own


def test_check_reports_whether_a_worker_works(
    checked: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = checked
    # Longer than a worker's health may be unwritten, and its next look for messages away.
    monkeypatch.setattr(processes, "IDLE_S_MAX", POLL_S + HEALTH_S + 2)
    assert own.cli("worker", "--check").exit_code == 1
    worker = own.start("worker")
    own.start("relay")
    own.create("before")
    own.answers("before")
    until(lambda: own.cli("worker", "--check").exit_code == 0, "a healthy worker")
    # One that is paused asks for nothing.
    worker.pause()
    until(lambda: own.cli("worker", "--check").exit_code == 1, "an idle worker")
    worker.resume()
    until(lambda: own.cli("worker", "--check").exit_code == 0, "a healthy worker")
    # One that can't commit settles nothing; the database answers others.
    with own.engine.begin() as connection:
        connection.execute(text("ALTER TABLE cards RENAME TO elsewhere"))
    update(own, "stuck")
    until(lambda: own.cli("worker", "--check").exit_code == 1, "a stuck worker")
    own.sql("ALTER TABLE elsewhere RENAME TO cards")
    own.answers("stuck")
    until(lambda: own.cli("worker", "--check").exit_code == 0, "a healthy worker")
    # What waits for a row that somebody else has locked is no fault of the worker's.
    with locked(own, "before"):
        update(own, "waits")
        worker.says("rows locked by another session")
        seen: set[float | None] = set()

        def is_retried() -> bool:
            seen.update(facts["unsettled_since"] for facts in living("worker"))
            return len(seen - {None}) > 1

        until(is_retried, "a later try")
    worker.kill9()
    assert own.cli("worker", "--check").exit_code == 1


def test_check_reports_whether_beat_is_on_time(
    checked: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = checked
    monkeypatch.setattr(processes, "IDLE_S_MAX", 2.0)
    assert own.cli("beat", "--check").exit_code == 1
    beat = own.start("beat", SWEEP_INTERVAL_S="1")
    until(lambda: own.cli("beat", "--check").exit_code == 0, "beat")
    beat.pause()
    until(lambda: own.cli("beat", "--check").exit_code == 1, "a late beat")
    beat.resume()
    until(lambda: own.cli("beat", "--check").exit_code == 0, "beat")
    assert beat.stop() == 0
    assert own.cli("beat", "--check").exit_code == 1
