"""A complete system for a test: broker, database, the processes it starts, and helpers."""

import base64
import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery import Celery
from redis import Redis
from sqlalchemy import func, select, text
from typer.testing import CliRunner, Result

from card_worker.cli import app
from card_worker.client import Client
from card_worker.storage import dead_letters
from card_worker.storage.dead_letters import DeadLetter
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.roles import Role
from card_worker.storage.tables import cards, idempotency_keys, outbox, transactions
from card_worker.transport.in_flight import InFlight
from card_worker.worker.messages import start_key
from tests.flow.processes import DATABASE_URL, WAIT_S, Part, Parts, parts, until
from tests.servers import role_urls

ACCOUNT = "T00000001"
STREAM = "card-events"
QUEUES = ("cards", "cards.bulk", "cards.system")
IN_FLIGHT = "inflight.of.*"
"""The keys of what workers have taken and not acknowledged."""

Event = dict[str, Any]


class System:
    """Where everything is, what has been started, and what came of it."""

    def __init__(self, all_parts: Parts, *, database_url: str, broker_url: str) -> None:
        self.parts = all_parts
        self.database_url = database_url
        self.broker_url = broker_url
        self.engine = open_engine(database_url)
        # A message of 100 MB may take a busy machine longer than the 5 s of redis-py.
        self.redis: Redis = Redis.from_url(broker_url, decode_responses=True, socket_timeout=WAIT_S)
        self.client = Client(broker_url)
        self.owner: Any = None
        """A connection of the tables' owner, where the system's own role has fewer rights."""
        self._last = "0-0"
        self._found: dict[str, Event] = {}

    def start(self, part: str, *options: str, **settings: str) -> Part:
        return self.parts.start(part, *options, **settings)

    # --- in -----------------------------------------------------------------------------------

    def send(self, task: str, command_id: str, **fields: Any) -> None:
        """Publish a command of ACCOUNT as any Celery client does."""
        fields = {"account_id": ACCOUNT, "command_id": command_id, **fields}
        self.client.publish(task, fields, message_id=command_id)

    def create(self, *card_ids: str, **fields: Any) -> None:
        """Ask for a card of 5.00 NOK each; the card's id is the command's too."""
        for card_id in card_ids:
            self.send("cards.create", card_id, **card(card_id, **fields))

    def push(
        self, message: bytes | str | Mapping[str, Any], queue: str = "cards", *, returns: int = 0
    ) -> None:
        """Put something onto a queue's list with nothing between, as if so many had died of it."""
        raw = message if isinstance(message, bytes | str) else json.dumps(message)
        raw = raw if isinstance(raw, bytes) else raw.encode()
        self.redis.lpush(queue, raw + b" " * returns)

    # --- out ----------------------------------------------------------------------------------

    def stream(self) -> list[dict[str, str]]:
        """Return all entries of the stream, as any Redis client reads them."""
        entries: Any = self.redis.xrange(STREAM)
        return [fields for _, fields in entries]

    def events(self) -> list[Event]:
        return [json.loads(entry["event"]) for entry in self.stream()]

    def events_of(self, type: str) -> list[Event]:
        return [event for event in self.events() if event["type"] == type]

    def publishes(self, events: int) -> None:
        """Return when at least so many events are on the stream."""
        until(lambda: self.redis.xlen(STREAM) >= events, f"{events} events")

    def answers(self, *command_ids: str) -> dict[str, Event]:
        """Return the answers on the stream by command_id, once all of these are there."""
        wanted = set(command_ids)
        until(lambda: wanted <= self._answered().keys(), "the answers")
        return {command_id: self._found[command_id] for command_id in command_ids}

    def _answered(self) -> dict[str, Event]:
        """Return all answers so far; of those that are there more than once, the first."""
        entries: Any = self.redis.xrange(STREAM, min=f"({self._last}")
        for entry_id, fields in entries:
            self._last = entry_id
            event = json.loads(fields["event"])
            self._found.setdefault(event["correlationid"], event)
        return self._found

    def types(self, *command_ids: str) -> list[str]:
        """Return what the answers to these commands are, with the reason of a refusal."""
        return [
            event["data"].get("reason", event["type"])
            for event in self.answers(*command_ids).values()
        ]

    def catches_up(self, queue: str = "cards") -> None:
        """Return when the only worker has handled all that lay on the queue before this call."""
        fence = f"fence-{uuid4().hex}"
        # Of another account, so that it counts nowhere.
        self.push(
            envelope("cards.expire", fence, {"account_id": "T99999999", "card_id": "-"}), queue
        )
        self.answers(fence)

    # --- in the database ----------------------------------------------------------------------

    def letters(self, *, resolved: bool = False) -> list[DeadLetter]:
        """Return the dead letters that wait for an operator, or the resolved ones."""
        with reading(self.engine) as connection:
            return dead_letters.list_letters(connection, resolved=resolved, letters_max=1000)

    def letter(self, message_id: str) -> DeadLetter:
        """Return the only letter of a message, once it is there."""

        def found() -> list[DeadLetter]:
            return [letter for letter in self.letters() if letter.message_id == message_id]

        until(found, f"the dead letter of {message_id}")
        (letter,) = found()
        return letter

    def rows(self, account_id: str = ACCOUNT) -> dict[str, int]:
        """Return how many rows the account has."""
        with reading(self.engine) as connection:
            return {
                table.name: connection.execute(
                    select(func.count()).where(table.c.account_id == account_id)
                ).scalar_one()
                for table in (cards, transactions, idempotency_keys, outbox)
            }

    def waiting(self) -> int:
        """Return how many messages lie on the queues or with a worker."""
        lying = sum(int(str(self.redis.llen(queue))) for queue in QUEUES)
        return lying + self.held()

    def held(self) -> int:
        """Return how many messages are with a worker, alive or dead."""
        return sum(int(str(self.redis.hlen(key))) for key in self.redis.scan_iter(IN_FLIGHT))

    def give_back(self) -> int:
        """Return what dead workers held, as the living do in time; say how much it was."""
        held = self.held()
        for key in self.redis.scan_iter(IN_FLIGHT):
            consumer = str(key).rpartition(".")[2]
            InFlight(self.redis, "", consumer).leave(died=True)
        return held

    def sql(self, statement: str, **parameters: Any) -> None:
        """Change the database behind the system's back."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    # --- the operator -------------------------------------------------------------------------

    def cli(self, *arguments: str, **settings: str) -> Result:
        """Run `card-worker` in this process with the system's settings."""
        own = {f"CARD_WORKER_{name}": value for name, value in settings.items()}
        return CliRunner().invoke(app, arguments, env={**self.parts.settings, **own})

    def cli_json(self, *arguments: str) -> list[Any]:
        """Return what `card-worker … --json` prints, line by line."""
        done = self.cli(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    def close(self) -> None:
        self.client.close()
        self.redis.close()
        self.engine.dispose()


def card(card_id: str, **fields: Any) -> dict[str, Any]:
    """Return what asks for a card of 5.00 NOK; a field set to None is left out."""
    asked = {"account_id": ACCOUNT, "card_id": card_id, "amount": 500, "currency": "NOK"}
    return {name: value for name, value in (asked | fields).items() if value is not None}


def envelope(
    task: str,
    message_id: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    body: bytes | None = None,
    headers: Mapping[str, Any] | None = None,
    queue: str = "cards",
    **more: Any,
) -> dict[str, Any]:
    """Return a message as it lies on a Redis list, written by hand."""
    raw = body if body is not None else json.dumps([[], kwargs or {}, {}]).encode()
    return {
        "body": base64.b64encode(raw).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": message_id, **(headers or {})},
        "properties": {
            "body_encoding": "base64",
            "delivery_mode": 2,
            "delivery_tag": uuid4().hex,
            "delivery_info": {"exchange": "", "routing_key": queue, "redelivered": False},
            "priority": 0,
        },
        **more,
    }


@contextmanager
def system(
    folder: Path, *, database_url: str, broker_url: str, with_roles: bool = True
) -> Iterator[System]:
    """Give a system on this database and broker, of which no part runs yet.

    On PostgreSQL each part, and the command line, has a login with just its role.
    """
    urls = role_urls(database_url) if with_roles else {}
    addresses = {
        "DATABASE_URL": urls.get(Role.OPERATOR, database_url),
        "BROKER_URL": broker_url,
    }
    with parts(folder / "parts", **addresses) as all_parts:
        if urls:
            all_parts.databases = {
                "worker": {DATABASE_URL: urls[Role.WORKER]},
                "relay": {DATABASE_URL: urls[Role.RELAY]},
                "beat": {},
                "flower": {},
            }
        made = System(all_parts, database_url=database_url, broker_url=broker_url)
        try:
            yield made
        finally:
            made.close()


def note_starts(system: System, message: Mapping[str, Any], starts: int) -> None:
    """Note starts of a message as if workers had died of it."""
    key = start_key(message["headers"]["id"], base64.b64decode(message["body"]))
    system.sql("INSERT INTO starts VALUES (:key, :starts, now())", key=key, starts=starts)


@contextmanager
def plain_client(url: str) -> Iterator[Celery]:
    """A Celery client that knows broker and result backend and nothing else."""
    with Celery(broker=url, backend=url, set_as_current=False) as client:
        yield client
        # Results that are forgotten now still ask the server for something.
        gc.collect()
        # It closes none of these by itself.
        client.backend.result_consumer.stop()
        client.backend.client.connection_pool.disconnect()
        client.pool.force_close_all()
