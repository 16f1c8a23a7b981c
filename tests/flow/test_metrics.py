"""Metrics and health checks of real processes."""

import os
import re
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

import pytest

from card_worker import shared_state
from card_worker.embedded.valkey import Valkey
from card_worker.health import Health
from card_worker.shared_state import READY_S, readiness
from tests import servers
from tests.documents.reading import ROOT
from tests.flow.processes import PARTS, Part, until
from tests.flow.scraping import METRICS_PORT, Scrape, get, port_in, scrape, value
from tests.flow.system import ACCOUNT, System, card, envelope, system

SERVED: Any = {"METRICS_PORT": METRICS_PORT}
POOLS = {"solo": (), "processes": ("--pool", "processes", "--concurrency", "2")}


ODD_TIMES = ("now", True, 10**300, -1e308, 0, None, [1], time() + 8 * 86_400)


def refusals(scraped: Scrape, command: str, reason: str) -> float | None:
    return value(scraped, "commands_total", command=command, outcome="refused", reason=reason)


def done(scraped: Scrape, command: str) -> float | None:
    return value(scraped, "commands_total", command=command, outcome="done", reason="")


@pytest.mark.parametrize("pool", POOLS)
def test_each_process_counts_what_it_did(own: System, pool: str) -> None:
    worker, relay = own.start("worker", *POOLS[pool], **SERVED), own.start("relay", **SERVED)
    own.create("a", "b", "c")
    own.answers("a", "b", "c")
    own.create("a")  # again: the stored answer
    for _ in range(2):
        own.send("cards.block", "refused", card_id="none", reason="because")
    own.client.publish(
        "commands.apply",
        {"commands": [{"command": "cards.create", "command_id": "d", **card("d")}]},
    )
    own.push(b"no message")
    for number, odd in enumerate(ODD_TIMES):
        fields = {"account_id": ACCOUNT, "card_id": "none"}
        own.push(envelope("cards.expire", f"odd-{number}", fields, headers={"sent_at": odd}))
    own.send("cards.get", "query", card_id="a")
    own.answers("d", "refused")
    own.catches_up()
    until(lambda: value(scrape(worker), "dead_letters_total", reason="entry_malformed"), "it")
    until(lambda: done(scrape(worker), "cards.get"), "the query")

    counted = scrape(worker)
    assert done(counted, "cards.create") == 5
    assert refusals(counted, "cards.block", "card_not_found") == 2
    assert value(counted, "dead_letters_total", reason="entry_malformed") == 1
    assert value(counted, "dead_letters_open", reason="entry_malformed") == 1
    answered = value(counted, "taken_to_answered_seconds_count")
    assert answered == 4 + 2 + 1 + 1 + 1 + len(ODD_TIMES)  # a list is one message
    # What `catches_up` pushes has no such header.
    assert value(counted, "sent_to_answered_seconds_count") == answered - 1 - len(ODD_TIMES)
    sums = [value(counted, f"{name}_seconds_sum") for name in ("taken_to_answered", "commit")]
    assert all(seconds is not None and 0 < seconds < 600 for seconds in sums)
    assert value(counted, "group_messages_sum") == answered
    assert value(counted, "consumers") == 1
    published = scrape(relay)
    assert value(published, "events_published_total", type="card.created") >= 4  # type: ignore[operator]
    assert not {name for name, _ in published} & {"card_worker_queue_waiting"}
    for labels in (labels for _, labels in counted):
        assert not {name for name, _ in labels} - LABELS


LABELS = {
    *("command", "outcome", "reason", "stored", "cause", "sweep", "type", "part", "version", "le"),
    *("holder", "queue", "server"),
}
"""None of them has an account, a card or a message."""


def test_without_the_setting_nothing_listens(own: System) -> None:
    worker = own.start("worker")
    own.create("a")
    own.start("relay")
    own.answers("a")
    assert "metrics served" not in worker.said
    assert "prometheus_client" not in Path(f"/proc/{worker.pid}/maps").read_text()


def test_a_port_that_is_taken_ends_the_start(own: System) -> None:
    worker = own.start("worker", **SERVED)
    get(worker, "/healthz")
    port = str(port_in(worker.said))
    for part in ("worker", "relay"):
        second = own.start(part, METRICS_PORT=port)
        assert second.ended() != 0
        assert "CARD_WORKER_METRICS_PORT: no port can be used" in second.said
        assert "Traceback" not in second.said
    elsewhere = own.start("relay", METRICS_PORT=port, METRICS_HOST="192.0.2.1")
    assert elsewhere.ended() != 0
    assert "CARD_WORKER_METRICS_HOST: Cannot assign" in elsewhere.said
    worker.kill9()
    assert get(own.start("worker", METRICS_PORT=port), "/healthz")[0] == 200


def test_checks_that_have_waited_for_a_slow_server_do_not_ask_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, asked = 0.0, 0

    def ask(_: str) -> None:
        nonlocal now, asked
        asked, now = asked + 1, now + 10 * READY_S

    monkeypatch.setattr(shared_state, "monotonic", lambda: now)
    monkeypatch.setattr(shared_state, "_database_answers", ask)
    ready = readiness(Health(), f"sqlite:///{tmp_path}/cards.db", {})
    assert [ready(), ready(), asked] == [None, None, 1]
    now += 2 * READY_S
    assert [ready(), asked] == [None, 2]


def test_a_database_that_is_away_is_no_reason_to_restart(
    tmp_path: Path, own_postgres: servers.Postgres, own_broker: Valkey
) -> None:
    with system(tmp_path, database_url=own_postgres.url, broker_url=own_broker.url) as own:
        worker = own.start("worker", **SERVED, STALLED_S="6")
        relay = own.start("relay", **SERVED, STALLED_S="6")
        own.create("a")
        own.answers("a")
        assert [get(part, "/readyz")[0] for part in (worker, relay)] == [200, 200]
        # An increase is seen only from a value that was there before.
        assert value(scrape(worker), "state_errors_total", part="database") == 0
        own_postgres.stop()
        own.create("b")
        worker.says("database unavailable, retrying", times=6)  # for longer than 6 s
        for part in (worker, relay):
            assert get(part, "/readyz") == (503, "the database does not answer: OperationalError\n")
            assert get(part, "/healthz") == (200, "ok\n")
        away = scrape(worker)
        assert value(away, "retries_total", cause="database unavailable")
        until(lambda: value(scrape(worker), "state_errors_total", part="database"), "an error")
        assert value(scrape(worker), "unpublished_events") is None
        assert value(scrape(worker), "queue_waiting", queue="cards") is not None
        own_postgres.start()
        own.answers("b")
        assert [get(part, "/readyz")[0] for part in (worker, relay)] == [200, 200]


def test_work_that_can_not_be_acknowledged_is_a_reason_to_restart(own: System) -> None:
    worker = own.start("worker", **SERVED, STALLED_S="5")
    own.start("relay")
    own.create("a")
    own.answers("a")
    assert get(worker, "/readyz")[0] == 200
    own.redis.acl_setuser("default", enabled=True, commands=["-hdel"])
    numbers = iter(range(1000))

    def has_failed() -> bool:
        own.create(f"b{next(numbers)}")
        return get(worker, "/healthz")[0] == 503

    until(has_failed, "the failure", every_s=1)
    assert "messages that are done were not acknowledged for" in get(worker, "/healthz")[1]
    assert get(worker, "/readyz") == (503, "messages that are done are not acknowledged\n")
    own.redis.acl_setuser("default", enabled=True, commands=["+hdel"])
    own.create("c")
    until(lambda: get(worker, "/healthz")[0] == 200, "a success")
    assert get(worker, "/readyz")[0] == 200


def test_a_loop_that_stands_still_is_a_reason_to_restart(own: System) -> None:
    """Its log is a pipe that nobody reads: it blocks in a write, as when a log collector hangs."""
    pipe = own.parts.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    own.parts.run(
        "-c", TO_PIPE, str(pipe), *PARTS["worker"], name="worker", **SERVED, STALLED_S="5"
    )
    said = ""

    def read() -> str:
        nonlocal said
        with suppress(BlockingIOError):
            said += os.read(reader, 1024 * 1024).decode()
        return said

    until(lambda: "ready." in read(), "the start")
    port = port_in(said)
    assert port is not None
    assert get(port, "/healthz") == (200, "ok\n")
    for number in range(2000):  # a line for each
        own.send("cards.block", f"refused-{number}", card_id="none", reason="because")
    until(lambda: get(port, "/healthz")[0] == 503, "the failure", every_s=0.5)
    assert get(port, "/healthz")[1].startswith("nothing was done or retried for ")
    until(lambda: read() and get(port, "/healthz")[0] == 200, "the end of it", every_s=0.1)
    os.close(reader)


TO_PIPE = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_WRONLY), 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


MONITORING = ("deploy/monitoring/alerts.yml", "deploy/monitoring/grafana/dashboard.json")


def families(part: Part) -> set[str]:
    text = get(part, "/metrics")[1]
    return set(re.findall(r"^# HELP (card_worker_\w+) ", text, re.MULTILINE))


def test_the_result_of_reconcile_is_a_metric(own: System) -> None:
    reconcile = own.parts.run(
        *("-m", "card_worker.cli", "reconcile", "--every", "1"), name="reconcile", **SERVED
    )
    reconcile.says("books add up", times=2)
    assert value(scrape(reconcile), "reconcile_differences") == 0
    assert get(reconcile, "/healthz")[0] == get(reconcile, "/readyz")[0] == 200
    worker, relay = own.start("worker", **SERVED), own.start("relay", **SERVED)
    own.create("a")
    own.answers("a")
    until(lambda: "card_worker_commit_seconds_sum" in get(worker, "/metrics")[1], "the commit")
    # Whatever documents, rules and panels name is served, and all that is served is documented.
    served = {name for part in (worker, relay, reconcile) for name in families(part)}
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(card_worker_\w+)` \|", page, re.MULTILINE)) == served
    used = {
        re.sub("_(bucket|sum|count)$", "", name)
        for file in MONITORING
        for name in re.findall(r"\bcard_worker_\w+", (ROOT / file).read_text())
    }
    assert used <= served
    own.sql("UPDATE cards SET amount_balance = amount_balance - 1")
    until(lambda: value(scrape(reconcile), "reconcile_differences"), "the difference")
    done_at = value(scrape(reconcile), "reconcile_last_run_timestamp_seconds")
    assert done_at is not None
    assert abs(time() - done_at) < 600
