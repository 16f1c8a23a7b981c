"""Operating a worker: inspection, remote control, and the conditions of a start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests import servers
from tests.flow.processes import CELERY, Part, Parts, parts
from tests.flow.system import System

STARTS = {
    "worker": ("-m", "card_worker.cli", "worker"),
    "relay": ("-m", "card_worker.cli", "relay"),
    "beat": ("-m", "card_worker.cli", "beat"),
    "migrate": ("-m", "card_worker.cli", "migrate"),
    "celery worker": (*CELERY, "worker"),
    "celery beat": (*CELERY, "beat"),
}
NAME = "tested@here"
# With a name, who asks stops waiting when that one has answered.
TO_IT = (f"--destination={NAME}", "--timeout=60")
DATABASE = {"DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}
BROKER = {"BROKER_URL": "redis://:secret@127.0.0.1:1/0"}
BOTH = DATABASE | BROKER
PEPPER = f"secret:{'c2VjcmV0' * 8}"

WRONG: list[tuple[str, dict[str, str], str]] = [
    ("worker", DATABASE, "BROKER_URL: missing"),
    ("worker", BROKER, "DATABASE_URL: missing"),
    (
        "worker",
        {**BROKER, "DATABASE_URL": "mysql://u:secret@h/d"},
        "DATABASE_URL: must begin with",
    ),
    ("celery worker", DATABASE, "BROKER_URL: missing"),
    ("celery worker", BROKER, "DATABASE_URL: missing"),
    ("celery worker", {**DATABASE, "BROKER_URL": "amqp://secret"}, "BROKER_URL: must begin with"),
    ("relay", DATABASE, "BROKER_URL: missing"),
    ("relay", BROKER, "DATABASE_URL: missing"),
    ("relay", {**BROKER, **DATABASE, "LOG_FORMAT": "secret"}, "LOG_FORMAT: "),
    ("worker", {**BOTH, "TOKEN_PEPPERS": "secret"}, "TOKEN_PEPPERS: key 1: use name:base64"),
    ("worker", {**BOTH, "PIN_PEPPERS": "k1:secret!"}, "PIN_PEPPERS: key 1: not base64"),
    ("worker", {**BOTH, "PIN_PEPPERS": "k1:c2VjcmV0"}, "PIN_PEPPERS: key 1: 6 bytes, at least 16"),
    (
        "worker",
        {**BOTH, "PIN_PEPPERS": PEPPER, "TOKEN_PEPPERS": PEPPER},
        "PIN_PEPPERS: has a key that TOKEN_PEPPERS has",
    ),
    ("worker", {**BOTH, "TOKEN_PEPPERS_FILE": "/none/secret"}, "TOKEN_PEPPERS_FILE: FileNotFound"),
    (
        "worker",
        {**BOTH, "TOKEN_PEPPERS_FILE": "/none", "TOKEN_PEPPERS": PEPPER},
        "TOKEN_PEPPERS_FILE: CARD_WORKER_TOKEN_PEPPERS is set as well",
    ),
    (
        "worker",
        {**BOTH, "COMMAND_IDENTITIES": "secret"},
        "COMMAND_IDENTITIES: is not an age identity",
    ),
    ("worker", {**BOTH, "LETTER_RECIPIENTS": "secret"}, "LETTER_RECIPIENTS: item 0 is not an age"),
    ("worker", {**BOTH, "FILES_URL": "nothing://secret"}, "FILES_URL: has a scheme"),
    ("celery worker", {**BOTH, "FILES_URL": "s3://secret"}, "FILES_URL: ImportError"),
    ("migrate", {}, "DATABASE_URL: missing"),
    ("migrate", {"DATABASE_URL": "secret"}, "DATABASE_URL: must begin with"),
    ("beat", {}, "BROKER_URL: missing"),
    ("beat", {**BROKER, "SWEEP_INTERVAL_S": "-1"}, "SWEEP_INTERVAL_S: "),
    ("celery beat", {}, "BROKER_URL: missing"),
]
"""What is started, with which settings, and what its one line says."""


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    # As operators start it, with all that Celery does by default.
    shared.parts.run(*STARTS["worker"], f"--hostname={NAME}", name="worker").says("ready.")
    shared.start("relay")
    return shared


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Parts]:
    with parts(tmp_path) as all_parts:
        yield all_parts


def _lines(part: Part) -> list[str]:
    """What is said about us, without Celery's warning against root."""
    return [line for line in part.said.splitlines() if "card_worker:" in line or "card-wo" in line]


@pytest.mark.parametrize("question", ["ping", "registered", "stats", "active_queues"])
def test_celery_inspect_is_answered(question: str, running: System) -> None:
    asked = running.parts.fork(*CELERY, "inspect", question, *TO_IT, name=question)
    assert asked.ended() == 0, asked.said
    assert "1 node online" in asked.said
    if question == "registered":
        for task in ("cards.activate", "cards.batch_create", "commands.apply"):
            assert task in asked.said


@pytest.mark.parametrize(
    ("control", "arguments"),
    [
        ("shutdown", {}),
        ("pool_shrink", {"n": 1}),
        ("pool_grow", {"n": 1}),
        ("pool_restart", {}),
        ("revoke", {"task_id": "revoked", "terminate": True}),
        ("rate_limit", {"task_name": "cards.create", "rate_limit": "1/h"}),
        ("time_limit", {"task_name": "cards.create", "hard": 0.001}),
        ("cancel_consumer", {"queue": "cards"}),
        ("add_consumer", {"queue": "others"}),
    ],
)
def test_publishers_cannot_change_a_worker(
    control: str, arguments: dict[str, Any], running: System, plain_celery_client: Celery
) -> None:
    (answer,) = plain_celery_client.control.broadcast(
        control, arguments=arguments, reply=True, limit=1, timeout=60
    )
    ((_, said),) = answer.items()
    assert said == {"error": "this worker can be inspected, but not changed"}
    running.create(f"after {control}")
    assert running.types(f"after {control}") == ["card.created"]
    assert running.parts.all[0].runs


def test_a_revoked_command_is_answered(running: System) -> None:
    running.create("revoked")
    assert running.types("revoked") == ["card.created"]


@pytest.mark.parametrize("start", ["worker", "celery worker"])
def test_a_worker_on_a_database_that_is_not_migrated_says_what_to_do(
    start: str, bare: Parts, postgres_server: servers.Server, shared_broker_url: str
) -> None:
    with servers.database(postgres_server) as empty:
        worker = bare.run(*STARTS[start], DATABASE_URL=empty, BROKER_URL=shared_broker_url)
        assert worker.ended() == 1
        (line,) = _lines(worker)
        assert line.endswith("run card-worker migrate")
        assert "Traceback" not in worker.said
        migration = bare.run(*STARTS["migrate"], DATABASE_URL=empty)
        assert migration.ended() == 0
        again = bare.start("worker", DATABASE_URL=empty, BROKER_URL=shared_broker_url)
        again.says("ready.")


@pytest.mark.parametrize("case", range(len(WRONG)), ids=lambda case: f"{WRONG[case][0]}-{case}")
def test_a_wrong_or_missing_setting_stops_the_start_with_one_line(case: int, bare: Parts) -> None:
    start, settings, named = WRONG[case]
    if [other for other, *_ in WRONG].index(start) == case:
        part = bare.run(*STARTS[start], env=None, **settings)
    else:  # one start of each kind is enough to see how an interpreter ends
        part = bare.fork(*STARTS[start], name="fork", **settings)
    # Celery's own program has one code for all.
    assert part.ended() == (1 if start.startswith("celery") else 2), part.said
    (line,) = [line for line in part.said.splitlines() if "CARD_WORKER_" in line]
    assert f"CARD_WORKER_{named}" in line
    assert "Traceback" not in part.said
    assert "secret" not in part.said


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
def test_a_setting_that_celery_prefers_to_ours_stops_the_start(name: str, tmp_path: Path) -> None:
    with parts(tmp_path, **BROKER, **DATABASE) as foreign:
        foreign.settings[name] = "redis://127.0.0.1:2/0"
        worker = foreign.run(*STARTS["worker"])
        assert worker.ended() == 1
        assert f"{name} is set" in worker.said
