"""An order of a million cards, beside COPY of the very same rows, and beside an ORM.

Ours is everything: drawn, hashed, sealed, told, the bureau's file in its place. COPY gets rows
that are ready, and one connection; its tables have the same indexes and constraints.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
from sqlalchemy import BigInteger, DateTime, ForeignKey, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.commands import ACCOUNT
from benchmarks.measures.latency import Latencies, latencies_of
from benchmarks.programs import Failed, Program, program
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, Speed, interleaved
from benchmarks.stage import Place, Stage, ours
from card_worker.client import Client
from card_worker.contracts.batches import CreateBatch
from card_worker.secrets.peppers import new_pepper
from card_worker.secrets.sealing import new_key_pair, open_sealed

CARDS, FEW_CARDS = 1_000_000, 50_000
ORM_CARDS = 20_000
ORM_TOGETHER = 1_000
TURN_MAX_S = 600.0
LOOK_S = 0.05
TABLES = ("cards", "tokens", "pins")

BULK = ("--queues=cards.bulk",)
TILLS = ("--queues=cards,cards.system",)

BUREAU = new_key_pair()


@dataclass(frozen=True)
class Ordered:
    """What an order took."""

    cards: int
    rows_s: float
    """Until the last row was committed."""
    all_s: float
    """Until the file was in its place."""
    peak_mb: float
    """The largest that a worker ever was."""

    def __str__(self) -> str:
        rows, everything = self.cards / self.rows_s, self.cards / self.all_s
        return f"rows {rows:,.0f}/s, everything {everything:,.0f}/s, {self.peak_mb:.0f} MB"


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare cards per second, the size of a worker, and what a till waits meanwhile."""
    count = size.of(CARDS)
    rounds = min(size.rounds, 2)
    copied: list[float] = []

    def order_and_copy() -> Ordered:
        with stage.place() as place:
            ordered = _order(place, count)
            copied.append(_copy_again(place))
        return ordered

    def order_few() -> Ordered:
        with stage.place() as place:
            return _order(place, min(FEW_CARDS, count))

    play = {"an order": order_and_copy, "a small one": order_few}
    turns = interleaved(play, rounds)
    by_orm = interleaved({"ORM add_all": partial(_with_orm, stage, size)}, rounds)["ORM add_all"]
    large, small = turns["an order"], turns["a small one"]
    raw = [count / seconds for seconds in copied]
    rows = [one.cards / one.rows_s for one in large]
    everything = [one.cards / one.all_s for one in large]
    sizes = [one.peak_mb for one in large], [one.peak_mb for one in small]
    named = f"an order of {count:,}"
    return [
        compare(f"{named}, its rows / COPY", rows, raw, "cards/s", at_least=0.7),
        compare(f"{named}, everything / COPY", everything, raw, "cards/s", at_least=0.5),
        compare(f"{named} / ORM add_all", everything, by_orm, "cards/s", at_least=12),
        compare(f"{named}, peak memory / of {min(FEW_CARDS, count):,}", *sizes, "MB", at_most=1.2),
        _tills(stage, size),
    ]


@contextmanager
def _workers(place: Place, *queues: tuple[str, ...]) -> Iterator[list[Program]]:
    """Run a worker for each of `queues`, a relay, and nothing else."""
    files = place.folder / "files"
    settings = {
        **place.environment,
        "CARD_WORKER_TOKEN_PEPPERS": new_pepper("t1"),
        "CARD_WORKER_PIN_PEPPERS": new_pepper("p1"),
        "CARD_WORKER_FILES_URL": str(files),
    }
    with ExitStack() as running:

        def start(name: str, *command: str) -> Program:
            log = place.folder / f"{name}.log"
            whole = (ours("card-worker"), *command)
            return running.enter_context(program(name, whole, settings, log))

        start("relay", "relay")
        yield [
            start(
                f"worker {number}",
                "worker",
                *named,
                "--loglevel=WARNING",
                f"--hostname={number}@%h",
            )
            for number, named in enumerate(queues, 1)
        ]


def _order(place: Place, count: int) -> Ordered:
    """Order cards from two workers; return what it took."""
    with _workers(place, (), ()) as workers, Client(place.broker_url) as client:
        _warm_up(place, client, workers)
        place.settle()
        started = time.perf_counter()
        batch_id = _send(client, count)
        _await(place, workers, lambda: _created(place, batch_id) == count)
        rows_s = time.perf_counter() - started
        path = place.folder / "files" / ACCOUNT / f"{batch_id}.csv.age"
        _await(place, workers, path.exists)
        all_s = time.perf_counter() - started
        peak = max(_peak_mb(worker.process.pid) for worker in workers)
    _verify(path, count)
    return Ordered(count, rows_s, all_s, peak)


def _warm_up(place: Place, client: Client, workers: list[Program]) -> None:
    for number in range(2):
        batch_id = _send(client, 2_000, f"warm-{number}")
        path = place.folder / "files" / ACCOUNT / f"{batch_id}.csv.age"
        _await(place, workers, path.exists)


def _send(client: Client, count: int, batch_id: str = "order") -> str:
    client.send(
        CreateBatch.model_validate(
            {
                "account_id": ACCOUNT,
                "command_id": batch_id,
                "batch_id": batch_id,
                "count": count,
                "card_id_pattern": f"{batch_id}-{{n:08d}}",
                "options": {"card_token": {}, "pin": {}},
                "seal_to": [BUREAU.recipient],
            }
        )
    )
    return batch_id


def _await(place: Place, workers: list[Program], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TURN_MAX_S
    while not is_so():
        for worker in workers:
            worker.check()
        if time.monotonic() > deadline:
            raise Failed("\n".join(worker.tail() for worker in workers))
        time.sleep(LOOK_S)


def _created(place: Place, batch_id: str) -> int:
    wanted = "SELECT created FROM batches WHERE batch_id = %s"
    with psycopg.connect(place.database_url) as connection:
        row = connection.execute(wanted, [batch_id]).fetchone()
    return 0 if row is None else int(row[0])


def _peak_mb(pid: int) -> float:
    """Return the largest resident size that a process or one of its children has had."""
    process = psutil.Process(pid)
    peaks = []
    for one in [process, *process.children(recursive=True)]:
        status = Path(f"/proc/{one.pid}/status").read_text(encoding="ascii", errors="replace")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        peaks.append(int(line.split()[1]) / 1024)
    return max(peaks)


def _verify(path: Path, count: int) -> None:
    lines = open_sealed([BUREAU.identity], path.read_bytes()).count(b"\n")
    if lines != count + 1:
        raise Failed(f"the file has {lines} lines")
    path.unlink()


# --- beside it --------------------------------------------------------------------------------


def _copy_again(place: Place) -> float:
    """Copy the rows of the order into tables like theirs; return the seconds that took."""
    with psycopg.connect(place.database_url) as connection:
        data = {table: _rows_of(connection, table) for table in TABLES}
        for table in TABLES:
            connection.execute(f"CREATE TABLE again_{table} (LIKE {table} INCLUDING ALL)")
    place.settle()
    with psycopg.connect(place.database_url) as connection:
        started = time.perf_counter()
        for table in TABLES:
            statement = f"COPY again_{table} FROM STDIN (FORMAT BINARY)"
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(data[table])
        connection.commit()
        return time.perf_counter() - started


def _rows_of(connection: Any, table: str) -> bytes:
    statement = f"COPY {table} TO STDOUT (FORMAT BINARY)"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        return b"".join(bytes(part) for part in copy)


class Base(DeclarativeBase):
    """The three tables, as SQLAlchemy's ORM maps them."""

    type_annotation_map = {int: BigInteger, str: Text, datetime: DateTime(timezone=True)}  # noqa: RUF012


class Card(Base):
    __tablename__ = "cards"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    card_id: Mapped[str]
    type: Mapped[str] = mapped_column(default="gift_card")
    state: Mapped[str] = mapped_column(default="inactive")
    blocked: Mapped[bool] = mapped_column(default=False)
    amount: Mapped[int] = mapped_column(default=0)
    batch_id: Mapped[str | None]
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)
    amount_funds: Mapped[int] = mapped_column(default=0)
    amount_drawdown: Mapped[int] = mapped_column(default=0)
    amount_balance: Mapped[int] = mapped_column(default=0)
    amount_pending: Mapped[int] = mapped_column(default=0)
    amount_reserved: Mapped[int] = mapped_column(default=0)
    has_codes: Mapped[bool] = mapped_column(default=True)


class Token(Base):
    __tablename__ = "tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    card: Mapped[UUID] = mapped_column(ForeignKey("cards.id"))
    kid: Mapped[str]
    digest: Mapped[str]
    masked_code: Mapped[str]
    created_at: Mapped[datetime]
    expires_after_transaction: Mapped[bool] = mapped_column(default=False)


class Pin(Base):
    __tablename__ = "pins"

    id: Mapped[UUID] = mapped_column(ForeignKey("cards.id"), primary_key=True)
    account_id: Mapped[str]
    kid: Mapped[str]
    digest: Mapped[str]
    changed_at: Mapped[datetime]


def _with_orm(stage: Stage, size: Size) -> Speed:
    """Make cards with tokens and PINs as one does with an ORM; nothing is sealed, nor told."""
    count = max(ORM_TOGETHER, size.of(ORM_CARDS))
    key = secrets.token_bytes(32)
    with stage.place() as place:
        engine = create_engine(place.database_url.replace("postgresql:", "postgresql+psycopg:"))
        place.settle()
        started = time.perf_counter()
        for first in range(0, count, ORM_TOGETHER):
            with Session(engine) as session, session.begin():
                made = [_card_and_codes(first + at, key) for at in range(ORM_TOGETHER)]
                session.add_all(card for card, _, _ in made)
                session.flush()
                session.add_all(code for _, *codes in made for code in codes)
        seconds = time.perf_counter() - started
        engine.dispose()
    return Speed(count / seconds)


def _card_and_codes(number: int, key: bytes) -> tuple[Card, Token, Pin]:
    now, id, token, pin = (
        datetime.now(UTC),
        uuid4(),
        f"DINCARD:{uuid4()}",
        secrets.randbelow(10_000),
    )
    told = {"account_id": ACCOUNT, "kid": "k1"}
    card = Card(id=id, account_id=ACCOUNT, card_id=f"c-{number}", batch_id="b", created_at=now)
    digest = hmac.new(key, token.encode(), hashlib.sha256).hexdigest()
    kept = Token(
        id=uuid4(), card=id, digest=digest, masked_code=f"***{token[-4:]}", created_at=now, **told
    )
    digest = hmac.new(key, id.bytes + f"{pin:04}".encode(), hashlib.sha256).hexdigest()
    return card, kept, Pin(id=id, digest=digest, changed_at=now, **told)


# --- tills meanwhile --------------------------------------------------------------------------


def _tills(stage: Stage, size: Size) -> Result:
    """Compare what activations wait while an order runs, with what they wait without."""
    play = {
        "tills alone": partial(_wait_of_tills, stage, size, with_order=False),
        "tills beside an order": partial(_wait_of_tills, stage, size, with_order=True),
    }
    turns = interleaved(play, size.rounds)
    alone, beside = turns["tills alone"], turns["tills beside an order"]
    together = [Latencies(one for turn in some for one in turn).p99 for some in (beside, alone)]
    return compare(
        "an activation's wait while an order runs, p99 / without one",
        [turn.p99 for turn in beside],
        [turn.p99 for turn in alone],
        "ms",
        at_most=2.0,
        pooled=(together[0], together[1]),
    )


def _wait_of_tills(stage: Stage, size: Size, *, with_order: bool) -> Latencies:
    """Activate cards at 50 a second; the order is larger than can be made meanwhile."""
    numbers = range(100 + size.of(750))
    with stage.place(cards=len(numbers)) as place:
        with _workers(place, TILLS, BULK) as workers, Client(place.broker_url) as client:
            _warm_up(place, client, workers)
            waits = partial(latencies_of, place, partial(_await, place, workers))
            waits(numbers[:100])
            if with_order:
                batch_id = _send(client, CARDS)
                _await(place, workers, lambda: _created(place, batch_id) > 0)
            measured = waits(numbers[100:])
            if with_order and _created(place, batch_id) == CARDS:
                raise Failed("the order was over before the last activation")
        return measured
