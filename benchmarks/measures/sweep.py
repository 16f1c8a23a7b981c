"""What time made due among two million cards: beside a statement, an ORM, and who waits."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session

from benchmarks.commands import ACCOUNT
from benchmarks.peers.models import Card, Key, Outbox
from benchmarks.programs import Failed
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, Speed, interleaved, say
from benchmarks.stage import Stage
from card_worker.contracts.cards import BlockCard
from card_worker.handler import handle
from card_worker.storage.engine import begin, open_engine
from card_worker.sweeps import BEGIN, expire_cards
from card_worker.worker.grouping import spare_cycle_search
from tests.servers import database

CARDS, DUE, FEW = 2_000_000, 100_000, 20_000
ORM_CARDS = 1_000
LOOKS = 20
WAIT_MS_MAX = 250.0

_INSERT = """
INSERT INTO cards (id, account_id, card_id, type, state, blocked, currency, amount, batch_id,
    active_from, activated_at, expires_at, created_at, version, amount_funds, amount_drawdown,
    amount_balance, amount_pending, amount_reserved)
SELECT md5(%(account)s || n)::uuid, %(account)s, 'card-' || n, 'gift_card', 'active', false, 'NOK',
    50000, 'batch-' || n / 1000, now(), now(),
    CASE WHEN n < %(due)s THEN now() - interval '1 minute' * (n %% 1000)
        WHEN n %% 2 = 0 THEN now() + interval '1 year' END,
    now(), 2, 50000, 0, 50000, 0, 0
FROM generate_series(0, %(count)s::int - 1) n
"""

# The same rows as wide: the event is one that the sweep wrote for card 0.
_EXPIRE_ALL = """
WITH changed AS (
    UPDATE cards SET state = 'expired', version = version + 1
    WHERE state = 'active' AND expires_at <= now()
    RETURNING id, account_id, card_id
), known AS (
    INSERT INTO idempotency_keys (account_id, key, digest, event_id, created_at)
    SELECT account_id, 'own/expire-' || id || '-2', repeat(md5(card_id), 2),
        md5('event' || id)::uuid, now() FROM changed
)
INSERT INTO outbox (id, account_id, type, subject, partition_key, event, created_at)
SELECT md5('event' || id)::uuid, account_id, 'card.expired', card_id,
    account_id || '/' || card_id, replace(%(event)s, 'card-0', card_id), now() FROM changed
"""


@dataclass(frozen=True)
class Swept:
    """What a sweep took, and the longest that a command waited for it."""

    per_s: Speed
    waited_ms: float

    def __str__(self) -> str:
        return f"{self.per_s}, others waited {self.waited_ms:.0f} ms at most"


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare cards per second, and how long it takes to find that nothing is due."""
    count, due = size.of(CARDS), size.of(DUE)
    say(f"  putting {count:,} cards into a table, {due:,} of them due")
    with _filled(stage, count, due) as large, _filled(stage, size.of(FEW), 0) as small:
        event = _event_of_card_0(stage, large)
        play: dict[str, Callable[[], Swept]] = {
            "sweep": partial(_sweep, stage, large, due),
            "one statement": partial(_one_statement, stage, large, due, event),
            "ORM, a commit a card": partial(_with_orm, stage, large, event),
        }
        turns = interleaved(play, size.rounds)
        speed = {name: [one.per_s for one in swept] for name, swept in turns.items()}
        waited = [one.waited_ms for one in turns["sweep"]]
        many, few = _looks(stage, large), _looks(stage, small)
    named = f"sweep of {due:,} among {count:,}"
    nobody = [WAIT_MS_MAX] * len(waited)
    return [
        compare(
            f"{named} / one statement",
            speed["sweep"],
            speed["one statement"],
            "cards/s",
            at_least=0.4,
        ),
        compare(
            f"{named} / ORM, a commit a card",
            speed["sweep"],
            speed["ORM, a commit a card"],
            "cards/s",
            at_least=15,
        ),
        compare(
            f"{named}: a command for a card of it waits / allowed",
            waited,
            nobody,
            "ms",
            at_most=1.0,
            pooled=(max(waited), WAIT_MS_MAX),
        ),
        compare(
            f"sweep with nothing due, {count:,} cards / {size.of(FEW):,}",
            many,
            few,
            "ms",
            at_most=2.0,
        ),
    ]


@contextmanager
def _filled(stage: Stage, count: int, due: int) -> Iterator[str]:
    """Give the name of a database with so many cards, to be copied."""
    with database(stage.postgres, template=stage.template) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_INSERT, {"account": ACCOUNT, "count": count, "due": due})
            connection.execute("VACUUM ANALYZE cards")
            connection.execute("CHECKPOINT")
        name = make_url(url).database
        assert name is not None
        yield name


@contextmanager
def _copied(stage: Stage, template: str) -> Iterator[str]:
    with database(stage.postgres, template=template) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        yield url


def _event_of_card_0(stage: Stage, template: str) -> str:
    with _copied(stage, template) as url:
        engine = open_engine(url)
        expire_cards(engine)
        engine.dispose()
        found = "SELECT replace(event, subject, 'card-0') FROM outbox LIMIT 1"
        with psycopg.connect(url) as connection:
            row = connection.execute(found).fetchone()
    assert row is not None
    return str(row[0])


def _sweep(stage: Stage, template: str, due: int) -> Swept:
    with _copied(stage, template) as url:
        spare_cycle_search()  # as a worker does when it starts
        engine = open_engine(url)
        engine.connect().close()
        stopped = threading.Event()
        waits: list[float] = [0.0]
        other = threading.Thread(target=_ask_meanwhile, args=(url, due, stopped, waits))
        other.start()
        started = time.perf_counter()
        _expire_all(engine)
        seconds = time.perf_counter() - started
        stopped.set()
        other.join()
        engine.dispose()
        _verify(url, due)
    return Swept(Speed(due / seconds), max(waits))


def _expire_all(engine: Engine) -> None:
    """Do what a worker does for the messages of sweeps, until nothing is due."""
    place, changed = BEGIN, 0
    while True:
        swept = expire_cards(engine, place)
        changed += swept.changed
        if swept.following is not None:
            place = swept.following
        elif changed:
            place, changed = BEGIN, 0
        else:
            return


def _ask_meanwhile(url: str, due: int, stopped: threading.Event, waits: list[float]) -> None:
    """Ask for something of cards that are due, ten times a second; note how long that takes."""
    engine, chance = open_engine(url), random.Random(due)  # noqa: S311
    number = 0
    while not stopped.wait(0.1):
        number += 1
        block = BlockCard(
            account_id=ACCOUNT,
            card_id=f"card-{chance.randrange(due)}",
            command_id=f"block-{number}",
            reason="meanwhile",
        )
        started = time.perf_counter()
        with begin(engine) as (connection, now):
            handle(connection, [block], now)
        waits.append((time.perf_counter() - started) * 1_000)
    engine.dispose()


def _one_statement(stage: Stage, template: str, due: int, event: str) -> Swept:
    with (
        _copied(stage, template) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        started = time.perf_counter()
        connection.execute(_EXPIRE_ALL, {"event": event})
        seconds = time.perf_counter() - started
        _verify(url, due)
    return Swept(Speed(due / seconds), 0.0)


def _with_orm(stage: Stage, template: str, event: str) -> Swept:
    """Expire some of the cards that are due, each in a commit of its own, as one does."""
    with _copied(stage, template) as url:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with Session(engine) as session:
            due = session.query(Card.id).filter(
                Card.state == "active", Card.expires_at.is_not(None)
            )
            ids = [id for (id,) in due.order_by(Card.expires_at).limit(ORM_CARDS)]
        started = time.perf_counter()
        for id in ids:
            with Session(engine) as session, session.begin():
                _expire(session, id, event)
        seconds = time.perf_counter() - started
        engine.dispose()
    return Swept(Speed(len(ids) / seconds), 0.0)


def _expire(session: Session, id: UUID, event: str) -> None:
    """Note that a card's time is up, and tell it: the event is ready but for the card's name."""
    card, now, event_id = session.get(Card, id, with_for_update=True), datetime.now(UTC), uuid4()
    assert card is not None
    card.state, card.version = "expired", card.version + 1
    told = {"account_id": card.account_id, "created_at": now}
    key = f"own/expire-{id}-{card.version}"
    session.add(
        Key(key=key, digest=hashlib.sha256(key.encode()).hexdigest(), event_id=event_id, **told)
    )
    session.add(
        Outbox(
            id=event_id,
            type="card.expired",
            subject=card.card_id,
            partition_key=f"{card.account_id}/{card.card_id}",
            event=event.replace("card-0", card.card_id),
            **told,
        )
    )


def _looks(stage: Stage, template: str) -> list[float]:
    """Return how many milliseconds each look took when nothing was due."""
    with _copied(stage, template) as url:
        engine = open_engine(url)
        _expire_all(engine)
        # What the sweep has left behind, the server's own vacuum tidies up sooner or later.
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM cards")
        looks = []
        for _ in range(LOOKS):
            started = time.perf_counter()
            expire_cards(engine)
            looks.append((time.perf_counter() - started) * 1_000)
        engine.dispose()
    return looks


def _verify(url: str, due: int) -> None:
    wanted = "SELECT count(*) FROM outbox WHERE type = 'card.expired'"
    with psycopg.connect(url) as connection:
        row = connection.execute(wanted).fetchone()
    # What was blocked meanwhile may have been refused by then, or be expired as well.
    if row is None or row[0] != due:
        raise Failed(f"{row} of {due} cards were told to be expired")
