"""What tests on orders share: asking for one, and doing its chunks as workers would."""

import csv
import io
import json
from collections import deque
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from card_worker.batches.chunks import Chunk, do, first_chunks
from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.contracts.transactions import CreateTransaction
from card_worker.domain.answers import Answer
from card_worker.domain.rows import Batch, File, FileKind
from card_worker.handler import handle
from card_worker.secret_issuer import SecretIssuer
from card_worker.secrets.sealing import open_sealed
from card_worker.storage.batches import find_batch
from card_worker.storage.engine import begin
from card_worker.storage.files import find_files, read_parts
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.storage.tables import cards, outbox
from tests.codes import OWNER, SEAL_TO, VAULT

ACCOUNT = "T00000001"
ON_CARDS = {task for task in COMMANDS if not task.startswith("batches.")}
"""The commands that are done at once. Those on batches lead to what is done chunk by chunk."""
CODES: dict[str, Any] = {"options": {"card_token": {}, "pin": {}}, **SEAL_TO}


class Orders:
    """A database with its workers, of which there is one, and nothing that carries messages."""

    def __init__(self, engine: Engine, issuer: SecretIssuer | None = None) -> None:
        self.engine, self.issuer = engine, issuer or SecretIssuer(VAULT)
        self.waiting = deque[Chunk]()

    def ask(self, task: str, command_id: str, **fields: Any) -> dict[str, Any]:
        """Ask for something; return the event that answers."""
        with begin(self.engine) as (connection, now):
            answer = self.handle(connection, now, task, command_id, **fields)
        self.waiting += first_chunks(self.engine, [answer.id])
        return event(answer)

    def handle(
        self, connection: Connection, now: datetime, task: str, command_id: str, **fields: Any
    ) -> Answer:
        """Ask for something within a commit; return the answer."""
        (command,) = read_commands(task, command_id, {"account_id": ACCOUNT, **fields}, VAULT)
        assert not isinstance(command, UnreadableItem)
        (answer,) = handle(connection, [command], now, self.issuer)
        return answer

    def order(self, count: int, batch_id: str = "B1", **fields: Any) -> dict[str, Any]:
        """Order cards B1-0001, B1-0002 …"""
        asked = {"count": count, "card_id_pattern": f"{batch_id}-{{n:04d}}", "batch_id": batch_id}
        return self.ask("cards.batch_create", f"order-{batch_id}", **{**asked, **fields})

    def pay(self, **fields: Any) -> dict[str, Any]:
        """Ask for a payment by token, its PIN noted before as a worker does."""
        asked = {"account_id": ACCOUNT, **fields}
        (command,) = read_commands("transactions.create", "pay", asked, VAULT)
        assert isinstance(command, CreateTransaction)
        with begin(self.engine) as (connection, now):
            store_pin_attempts(connection, [command], now)
        with begin(self.engine) as (connection, now):
            (answer,) = handle(connection, [command], now, self.issuer)
        return event(answer)

    def work(self, chunks_max: int | None = None) -> int:
        """Do chunks until none waits, or so many; return how many."""
        done = 0
        while self.waiting and done != chunks_max:
            self.waiting += do(self.engine, self.issuer, self.waiting.popleft())
            done += 1
        return done

    def batch(self, batch_id: str = "B1") -> Batch:
        with begin(self.engine) as (connection, _):
            batch = find_batch(connection, ACCOUNT, batch_id)
        assert batch is not None
        return batch

    def names(self, batch_id: str = "B1") -> list[str]:
        """Return what the batch's cards are called that are there."""
        wanted = select(cards.c.card_id).where(cards.c.batch_id == batch_id)
        with begin(self.engine) as (connection, _):
            return list(connection.execute(wanted.order_by(cards.c.card_id)).scalars())

    def file(self, batch_id: str = "B1", kind: FileKind = FileKind.CODES) -> File:
        with begin(self.engine) as (connection, _):
            found = find_files(connection, ACCOUNT, batch_id)
        (file,) = [file for file in found if file.kind is kind]
        return file

    def content(self, file: File) -> bytes:
        return b"".join(read_parts(self.engine, file))

    def opened(self, file: File, secret: str = OWNER.identity) -> list[dict[str, str]]:
        plain = open_sealed([secret], self.content(file))
        return list(csv.DictReader(io.StringIO(plain.decode(), newline="")))

    def events(self, type: str | None = None) -> list[dict[str, Any]]:
        """Return what was told, in order."""
        with begin(self.engine) as (connection, _):
            told = connection.execute(select(outbox.c.event).order_by(outbox.c.position)).scalars()
            read = [json.loads(text) for text in told]
        return [event for event in read if type in (None, event["type"])]

    def count(self, table: Any) -> int:
        with begin(self.engine) as (connection, _):
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def event(answer: Answer) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(answer.event)
    return read
