"""What one message writes into the database: no more than docs/reference/limits.md says."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, select, text, update

from card_worker.contracts.commands import APPLY
from card_worker.contracts.enums import BatchState
from card_worker.contracts.envelope import HEADERS_BYTES_MAX, MESSAGE_BYTES_MAX, read_envelope
from card_worker.domain.books import Books
from card_worker.domain.spending import apply_hold_expired
from card_worker.secrets.sealing import new_key_pair, open_sealed
from card_worker.storage.batches import find_batch
from card_worker.storage.engine import begin, reading
from card_worker.storage.tables import batches, dead_letters, holds, metadata
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import TASKS, Answered, Message, Outcome
from tests.codes import OWNER, SEAL_TO, VAULT

ACCOUNT = "T00000001"
LIMITS = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"
WIDE = "😀"
"""The widest that a character gets: 4 bytes."""
NOK = {"currency": "NOK"}
OTHERS = new_key_pair()

Fields = dict[str, Any]
Row = tuple[Any, ...]


class Written(NamedTuple):
    rows: int
    bytes: int


class Place:
    """A database with a worker."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        letters_to = [OWNER.recipient]
        self.delivery = Delivery(engine, lambda: False, vault=VAULT, recipients=letters_to)
        self._sent = 0

    def send(self, task: str, kwargs: Fields, headers: Mapping[str, Any] | None = None) -> Outcome:
        """Let a worker take a message that is within all limits."""
        self._sent += 1
        whole = {"task": task, "id": f"message-{self._sent}", **(headers or {})}
        body = json.dumps([[], kwargs, {}], ensure_ascii=False, separators=(",", ":")).encode()
        body = body.replace(b"1000000000000000.0", b"1e15")
        assert len(body) <= MESSAGE_BYTES_MAX
        content = {"content_type": "application/json", "content_encoding": "utf-8"}
        call = read_envelope(whole, body, **content, tasks=TASKS)
        message = Message(
            task=task, id=whole["id"], queue="cards", kwargs=call.kwargs, body=body, headers=whole
        )
        (outcome,) = self.delivery.deliver([message])
        return outcome

    def ask(self, task: str, **fields: Any) -> dict[str, Any]:
        """Ask for something that isn't refused; return its event."""
        outcome = self.send(task, {"account_id": ACCOUNT, **fields})
        assert isinstance(outcome, Answered)
        event: dict[str, Any] = json.loads(outcome.answers[0].event)
        assert event["type"] != "command.rejected", event["data"]
        return event

    def write(self, task: str, kwargs: Fields, headers: Mapping[str, Any] | None = None) -> Written:
        """Return how many rows a message adds or changes, and what they hold."""
        before = self._content()
        self.send(task, kwargs, headers)
        after = self._content()
        fresh = after - before
        return Written(len(fresh), sum(_size(values) for _, *values in fresh))

    def _content(self) -> set[Row]:
        """Return all rows, each with its table's name before it."""
        with reading(self.engine) as connection:
            return {
                (table.name, *row)
                for table in metadata.sorted_tables
                for row in connection.execute(text(f"SELECT * FROM {table.name}"))  # noqa: S608
            }


def _size(values: list[Any]) -> int:
    binary = [value for value in values if isinstance(value, bytes)]
    others = [str(value) for value in values if not isinstance(value, bytes)]
    return sum(map(len, binary)) + len("".join(others).encode())


def listed(command: str, count: int, **fields: Any) -> Fields:
    """Return a list of commands; a field that is a function makes a value for each number."""
    parts = [
        {
            "command": command,
            "command_id": f"{command}-{number}",
            "account_id": ACCOUNT,
            **{name: value(number) if callable(value) else value for name, value in fields.items()},
        }
        for number in range(count)
    ]
    return {"commands": parts}


HEADERS = {"note": "x" * (HEADERS_BYTES_MAX - 200)}


def garbage(place: Place) -> list[Written]:
    found = [
        place.write(APPLY, {"commands": [0] * 1_000}, HEADERS),
        place.write(APPLY, {"commands": [WIDE * 259] * 1_000}, HEADERS),
        # What is secret is masked, and sealed to operators.
        place.write(APPLY, {"commands": [{"pin": 1}, {"a": [{"pin": 1}] * 100_000}]}, HEADERS),
        place.write("cards.create", {"x": "y" * 1_000_000}, HEADERS),
    ]
    # Numbers that Python writes longer than they came.
    some: list[Any] = listed("cards.expire", 1, card_id="nobody")["commands"]
    some += [{"pin": 1}, *([[1e15] * 200] * 998)]
    answered = place.write(APPLY, {"commands": some}, HEADERS)
    return [*found, answered._replace(rows=answered.rows - 3)]


def wrong(place: Place) -> list[Written]:
    unknown = {f"{chr(97 + number)}z": 0 for number in range(25)}
    return [
        place.write(APPLY, listed("cards.create", 1_000, **unknown), HEADERS),
        place.write(APPLY, listed("cards.close", 1_000, **{WIDE * 200: 0})),
        place.write(APPLY, listed("cards.expire", 1_000, card_id=WIDE * 220)),
        place.write("cards.create", {"account_id": ACCOUNT, **{f"x{n}": 0 for n in range(1_000)}}),
    ]


def transfers(place: Place) -> list[Written]:
    for card_id in ("one", "other"):
        place.ask("cards.create", card_id=card_id, amount=1_000, **NOK)
    moved = {"card_id": "one", "to_card_id": "other", "ref_id": str, "amount": 1}
    return [place.write(APPLY, listed("cards.transfer", 1_000, **moved))]


def replacements(place: Place) -> list[Written]:
    place.ask("cards.create", card_id="card-0", amount=1_000, **NOK)
    named: dict[str, Callable[[int], str]] = {
        "card_id": lambda number: f"card-{number}",
        "new_card_id": lambda number: f"card-{number + 1}",
    }
    return [place.write(APPLY, listed("cards.replace", 1_000, **named, reason="x"))]


def payments(place: Place) -> list[Written]:
    event = place.ask("cards.create", card_id="one", amount=1_000, **NOK, pin={}, **SEAL_TO)
    pin = json.loads(open_sealed([OWNER.identity], event["data"]["sealed"].encode()))["pin"]
    locked = {"card_id": "one", "pin": pin, "ref_id": str, "amount": 1, **NOK, "pending": True}
    return [place.write(APPLY, listed("transactions.create", 1_000, **locked, hold_expires_in=60))]


def full_card(place: Place, card_id: str) -> None:
    """Make a card that holds all that a card can hold."""
    names = ("customer_id", "name", "created_by", "originated_by")
    place.ask(
        "cards.create",
        card_id=card_id,
        amount=10**9,
        **NOK,
        metadata={"a": "x" * (16 * 1024 - 8)},
        **dict.fromkeys(names, WIDE * 255),
    )
    format = {"symbols": True, "length": 128, "prefix": "#" * 32, "barcode": "code128"}
    format |= {"numbers": True, "characters": True, "unambiguous": True}
    for number in range(100):
        place.ask(
            "tokens.create",
            card_id=card_id,
            ref_id=f"{number:03d}{WIDE * 252}",
            expires_in=10**8,
            expires_after_transaction=False,
            format=format,
            **SEAL_TO,
        )


def on_full_cards(place: Place) -> list[Written]:
    one, other = f"1{WIDE * 254}", f"2{WIDE * 254}"
    for card_id in (one, other):
        full_card(place, card_id)
    about = {"account_id": ACCOUNT, "card_id": one, "created_by": WIDE * 255}
    ref = {"ref_id": WIDE * 255, "amount": 1}
    deep: Any = {"a": "x" * 16_000}
    for _ in range(6):
        deep = {"a": deep}
    return [
        place.write("cards.transfer", {**about, **ref, "to_card_id": other}),
        place.write(
            "transactions.create", {**about, **ref, "ref_id": "2", **NOK, "metadata": deep}
        ),
        place.write("cards.update", {**about, "metadata": deep}),
        place.write("cards.replace", {**about, "new_card_id": "3", "reason": WIDE * 255}),
    ]


def batch(place: Place) -> list[Written]:
    options = {
        "card_token": {"format": {"length": 128, "prefix": "#" * 32, "symbols": True}},
        "pin": {"format": {"length": 32}},
    }
    request = {
        "account_id": ACCOUNT,
        "cards": [{"card_id": f"{number:04d}{WIDE * 240}"} for number in range(1_000)],
        **dict.fromkeys(("batch_id", "name", "created_by", "originated_by"), WIDE * 255),
        "metadata": {"a": "x" * 16_000},
        "options": options,
        "seal_pins_to": [OTHERS.recipient],
        **SEAL_TO,
    }
    return [place.write("cards.batch_create", request)]


def order(place: Place) -> list[Written]:
    request = {"count": 10_000_000, "card_id_pattern": "{n}", "metadata": {"a": "x" * 16_000}}
    return [place.write("cards.batch_create", {"account_id": ACCOUNT, **request})]


def make_largest_batch(place: Place) -> None:
    """Order as many cards as can be, and let them be made."""
    request = {"count": 10_000_000, "card_id_pattern": "{n}", "batch_id": "largest"}
    place.ask("cards.batch_create", **request)
    with begin(place.engine) as (connection, now):
        whole = {"state": BatchState.COMPLETED, "busy": False, "completed_at": now}
        connection.execute(update(batches).values(whole))


def recall(place: Place) -> list[Written]:
    make_largest_batch(place)
    request = {"account_id": ACCOUNT, "batch_id": "largest", "reason": WIDE * 255}
    return [place.write("batches.block", request)]


def recalls(place: Place) -> list[Written]:
    make_largest_batch(place)
    return [place.write(APPLY, listed("batches.block", 1_000, batch_id="largest", reason="x"))]


MESSAGES: dict[str, Callable[[Place], list[Written]]] = {
    "can't be read, in whole or in part": garbage,
    "1,000 commands that are invalid or refused": wrong,
    "1,000 transfers": transfers,
    "1,000 replacements": replacements,
    "1,000 payments with a PIN that lock their amount": payments,
    "a command on a card that holds all that a card can hold": on_full_cards,
    "1,000 listed cards with tokens and PINs": batch,
    "an order of 10,000,000 cards": order,
    "a recall of 10,000,000 cards": recall,
    "a list of recalls of 10,000,000 cards": recalls,
}


def bounds() -> dict[str, Written]:
    """Return what the page says of each message."""
    page = LIMITS.read_text()
    lines = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    return {
        what: Written(int(rows.replace(",", "")), int(kb.replace(",", "")) * 1_000)
        for what, rows, kb in lines
    }


@pytest.mark.parametrize("what", MESSAGES)
def test_a_message_writes_no_more_than_the_page_says(engine: Engine, what: str) -> None:
    bound, written = bounds()[what], MESSAGES[what](Place(engine))
    for one in written:
        assert one.rows <= bound.rows
        assert one.bytes <= bound.bytes
    # Nor does the page say much more than is so.
    assert max(one.rows for one in written) > 0.8 * bound.rows
    assert max(one.bytes for one in written) > 0.5 * bound.bytes


def test_each_message_of_the_page_is_tested() -> None:
    assert set(bounds()) == set(MESSAGES)


@pytest.mark.parametrize("secret", [{}, {"pin": WIDE * 100}], ids=["plain", "with a PIN"])
def test_a_dead_letter_of_a_list_is_no_larger_than_the_list(engine: Engine, secret: Fields) -> None:
    place = Place(engine)
    some: list[Any] = listed("cards.expire", 1, card_id="nobody")["commands"]
    kwargs = {"commands": [*some, secret, *([WIDE * 250] * 900)]}
    place.send(APPLY, kwargs)
    with reading(engine) as connection:
        (body,) = connection.execute(select(dead_letters.c.body)).scalars()
    assert len(body) <= len(json.dumps(kwargs, ensure_ascii=False).encode())


def test_a_command_releases_each_due_hold_of_its_card_once(engine: Engine) -> None:
    place = Place(engine)
    place.ask("cards.create", card_id="one", amount=1_000, **NOK)
    locked = {"card_id": "one", "ref_id": str, "amount": 1, **NOK, "pending": True}
    place.send(APPLY, listed("transactions.create", 100, **locked, hold_expires_in=1))
    with begin(engine) as (connection, now):
        connection.execute(update(holds).values(expires_at=now))
    written = place.write("cards.block", {"account_id": ACCOUNT, "card_id": "one", "reason": "x"})
    # A transaction, an event and its note for each, the hold itself; and those of the block.
    assert written.rows == 4 * 100 + 4


def test_dry_runs_on_a_card_release_its_due_holds_once(engine: Engine) -> None:
    place, count = Place(engine), 20
    for card_id in ("one", "other"):
        place.ask("cards.create", card_id=card_id, amount=1_000, **NOK)
    locked = {"card_id": "one", "ref_id": str, "amount": 1, **NOK, "pending": True}
    place.send(APPLY, listed("transactions.create", count, **locked, hold_expires_in=60))
    with begin(engine) as (connection, now):
        connection.execute(update(holds).values(expires_at=now))
    moved = {"card_id": "other", "to_card_id": "one", "ref_id": str, "amount": 7}
    asked = listed("cards.transfer", count, **moved, dry_run=True)
    # Each tries to draw all that is there: none sees what another has done.
    drawn = {"card_id": "one", "ref_id": lambda number: f"all-{number}", "amount": 1_000, **NOK}
    asked["commands"] += listed("transactions.create", count, **drawn, dry_run=True)["commands"]
    asked["commands"] += listed("cards.block", 1, card_id="one", reason="x")["commands"]
    with calls_of(apply_hold_expired) as releases:
        outcome = place.send(APPLY, asked)
    assert isinstance(outcome, Answered)
    told = [json.loads(answer.event) for answer in outcome.answers]
    assert [event["type"] for event in told] == [
        *["card.transferred_out"] * count,
        *["card.drawn_down"] * count,
        "card.blocked",
    ]
    drawn_down = [event["data"]["card"] for event in told[count : 2 * count]]
    assert [(one["amount_reserved"], one["amount_balance"]) for one in drawn_down] == [
        (0, 0)
    ] * count
    # Once for all dry runs, and once for the block.
    assert len(releases) == 2 * count


@contextmanager
def calls_of(function: Callable[..., object]) -> Iterator[list[None]]:
    """Note each call of a function meanwhile."""
    calls: list[None] = []

    def note(frame: FrameType, what: str, _: object) -> None:
        if what == "call" and frame.f_code is function.__code__:
            calls.append(None)

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


class Listed(list[dict[str, Any]]):
    """The cards of an order; counts how often they are gone through."""

    read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.read += 1
        return super().__iter__()


def test_lists_of_busy_batches_are_read_once_per_commit(
    engine: Engine,
) -> None:
    place = Place(engine)
    waits = {"needs_approval": True, "created_by": "kari"}
    place.ask("cards.batch_create", batch_id="a", cards=[{"card_id": "a-1"}], **waits)
    place.ask("cards.batch_create", batch_id="b", count=5, card_id_pattern="b-{n}", **waits)
    with reading(engine) as connection:
        found = [find_batch(connection, ACCOUNT, name) for name in ("a", "b")]
    first, second = [batch for batch in found if batch is not None]
    names = Listed(first.card_list or ())
    books = Books()
    books.put_batch(first._replace(card_list=names))
    books.put_batch(second)
    for number in range(100):
        assert books.busy_with((ACCOUNT, f"other-{number}")) is None
        assert books.aside().busy_with((ACCOUNT, f"other-{number}")) is None
    assert names.read == 1
    busy = {name: books.busy_with((ACCOUNT, name)) for name in ("a-1", "b-5", "b-6")}
    assert {name: batch and batch.batch_id for name, batch in busy.items()} == {
        "a-1": "a",
        "b-5": "b",
        "b-6": None,
    }
    books.put_batch(first._replace(busy=False))
    assert books.busy_with((ACCOUNT, "a-1")) is None
