"""What must hold in the end. Knows the contract and nothing of the code: plain JSON, plain SQL.

Every rule is a method that yields a line for each thing that is wrong.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import Any

import psycopg

from tests.chaos.servers.journal import Asked, Event, Journal, is_answer

WRONG_PINS_MAX = 5
FIRST_LOCK = timedelta(minutes=15)
CLOCK_SLACK = timedelta(seconds=1)
POISONED = "poison"
"""What a fault has put where a message belongs; it may become a dead letter, or not."""
BESIDES = frozenset(
    [
        *("hold.expired", "card.transferred_in", "card.created", "card.activated"),
        *("card.pin_locked", "card.expired", "batch.progressed", "batch.completed"),
    ]
)
"""What may be told of a command beside its answer."""
SPENDING = frozenset(["card.drawn_down", "hold.placed"])
ENDS = {
    "card.created": "active",
    "card.activated": "active",
    "card.activation_reversed": "inactive",
    "card.closed": "closed",
    "card.replaced": "closed",
    "card.expired": "expired",
}
"""The state that a card has after an event."""
AMOUNTS = ("amount_balance", "amount_funds", "amount_drawdown", "amount_pending", "amount_reserved")

CardKey = tuple[str, str]
Entry = tuple[str, str]
"""The id of an event, and its JSON."""


@dataclass
class Account:
    """The amounts of a card, in minor units."""

    amounts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AMOUNTS, 0))

    def post(self, moved: dict[str, Any]) -> None:
        """Add a transaction."""
        amount, kind, sums = moved["amount"], moved["type"], self.amounts
        sums["amount_balance"] += amount * _net(moved, "card")
        sums["amount_reserved"] += amount * _net(moved, "reserved")
        match kind:
            case "fund":
                sums["amount_funds"] += amount
            case "reversal":
                sums["amount_funds"] -= amount
            case "pending_capture":
                sums["amount_pending"] += amount
            case "drawdown":
                sums["amount_drawdown"] += amount
                sums["amount_reserved"] -= amount if moved["parent_id"] else 0
            case _:
                pass


def _net(moved: dict[str, Any], side: str) -> int:
    return int(moved["credit"] == side) - int(moved["debit"] == side)


class Checker:
    """Holds the journal, the stream and the database against each other."""

    def __init__(
        self,
        journal: Journal,
        entries: Sequence[Entry],
        connection: "psycopg.Connection[tuple[Any, ...]]",
        *,
        clock: datetime,
        clock_at: float,
    ) -> None:
        """`clock` is the time at `clock_at` of the clock by which the journal counts seconds."""
        self._journal, self._entries, self._connection = journal, entries, connection
        self._clock, self._clock_at = clock, clock_at

    def violations(self) -> Iterator[str]:
        """Yield all that is wrong."""
        return chain(
            self.repeats(),
            self.answers(),
            self.letters(),
            self.sequences(),
            self.replay(),
            self.rows(),
            self.sums(),
            self.movements(),
            self.parts_of_movements(),
            self.outbox(),
            self.keys(),
            self.order(),
            self.times(),
            self.pins(),
            self.orders(),
        )

    # --- what there is ----------------------------------------------------------------------------

    @cached_property
    def first(self) -> dict[str, str]:
        """The JSON of each event by its id, in the order of the first occurrences."""
        found: dict[str, str] = {}
        for id, raw in self._entries:
            found.setdefault(id, raw)
        return found

    @cached_property
    def events(self) -> list[Event]:
        return [json.loads(raw) for raw in self.first.values()]

    @cached_property
    def by_card(self) -> dict[CardKey, list[Event]]:
        """The events that have a sequence, by account and card, in the order of the stream."""
        found: dict[CardKey, list[Event]] = defaultdict(list)
        for event in self.events:
            if "sequence" in event:
                found[event["data"]["account_id"], event["data"]["card_id"]].append(event)
        return found

    @cached_property
    def listed(self) -> set[CardKey]:
        """Cards that a list made: they have version 1 without an event of their own."""
        return {
            (event["data"]["account_id"], card["card_id"])
            for event in self.events
            if event["type"] == "batch.completed" and not event["data"].get("dry_run")
            for card in event["data"].get("cards", ())
        }

    @property
    def told_again(self) -> int:
        return len(self._entries) - len(self.first)

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        cursor = self._connection.execute(statement.encode())
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @cached_property
    def _cards(self) -> dict[CardKey, dict[str, Any]]:
        rows = self._rows(
            "SELECT account_id, card_id, id::text, state, blocked, currency, version, batch_id,"  # noqa: S608
            f" {', '.join(AMOUNTS)} FROM cards"
        )
        return {(row["account_id"], row["card_id"]): row for row in rows}

    @cached_property
    def _moved(self) -> list[dict[str, Any]]:
        return self._rows(
            "SELECT id::text, card::text, type, amount, currency, debit, credit, version, ref_id,"
            " parent_id::text, balance_before, balance_after FROM transactions ORDER BY version"
        )

    @cached_property
    def _letters(self) -> list[dict[str, Any]]:
        return self._rows(
            "SELECT message_id, reason, substring(body for 4000) AS body FROM dead_letters"
        )

    # --- answers ----------------------------------------------------------------------------------

    def repeats(self) -> Iterator[str]:
        """An event that is told again is the same to the byte, and is what it says it is."""
        for id, raw in self._entries:
            if raw != self.first[id]:
                yield f"event {id} was told with different bytes"
        for id, event in zip(self.first, self.events, strict=True):
            if event["id"] != id:
                yield f"the entry of event {id} holds event {event['id']}"

    def answers(self) -> Iterator[str]:
        """Each accepted command has one answer for each content that was sent under its id."""
        answers: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            if is_answer(event):
                answers[event["correlationid"]].append(event)
            elif event["type"] not in BESIDES:
                yield f"{event['type']} {event['id']} answers no {event['data']['command']}"
        buried = {letter["message_id"]: letter["reason"] for letter in self._letters}
        for command_id, contents in self._journal.asked.items():
            told = answers.pop(command_id, [])
            least = sum(one.accepted is not None for one in contents)
            if len(told) > len(contents):
                yield f"doubled: {_name(contents[0])} has {len(told)} answers"
            elif len(told) < least and command_id not in buried:
                yield f"lost: {_name(contents[0])} has {len(told)} of {least} answers"
            conflicts = sum(_reason(event) == "idempotency_conflict" for event in told)
            if told and conflicts != len(told) - 1:
                yield f"{_name(contents[0])} has {conflicts} conflicts in {len(told)} answers"
        for command_id, told in answers.items():
            if not _is_sweep(told[0]):
                yield f"{command_id} was answered {told[0]['type']} and never sent"

    def letters(self) -> Iterator[str]:
        """Garbage has a dead letter, and nothing else has one."""
        known = Counter(letter["message_id"] for letter in self._letters if letter["message_id"])
        bodies = {letter["message_id"]: bytes(letter["body"]) for letter in self._letters}
        nameless = [bytes(one["body"]) for one in self._letters if one["message_id"] is None]
        for garbage in self._journal.garbage:
            letters = known.pop(garbage.mark, 0)
            mine = [body for body in nameless if garbage.mark.encode() in body]
            nameless = [body for body in nameless if body not in mine]
            if not letters and not mine and garbage.accepted is not None:
                yield f"lost: {garbage.mark} is no dead letter"
            if letters > 1:
                yield f"doubled: {garbage.mark} has {letters} dead letters"
            for part in garbage.parts if letters else ():
                if f'"{part}"'.encode() not in bodies[garbage.mark]:
                    yield f"lost: {part} is not in the dead letter {garbage.mark}"
        reasons = {one["message_id"]: one["reason"] for one in self._letters}
        for message_id in known:
            yield f"a message in order became a dead letter: {message_id}: {reasons[message_id]}"
        for body in nameless:
            if POISONED.encode() not in body:
                yield f"a dead letter of nothing that was sent: {body[:60]!r}"

    # --- cards ------------------------------------------------------------------------------------

    def sequences(self) -> Iterator[str]:
        """The events of a card come in the order of its versions, without a gap."""
        for key, events in self.by_card.items():
            first = 2 if key in self.listed else 1
            versions = [int(event["sequence"]) for event in events]
            if versions != list(range(first, first + len(versions))):
                place = next(at for at, each in enumerate(versions) if each != first + at)
                about = versions[max(0, place - 2) : place + 3]
                yield f"versions of {key[1]} are not in order at {first + place}: {about}"

    def replay(self) -> Iterator[str]:
        """What events tell, in the order of versions, gives what they show and the rows hold."""
        for key, events in self.by_card.items():
            account, state, blocked = Account(), "inactive", False
            for event in sorted(events, key=_version):
                kind, data = event["type"], event["data"]
                if kind in SPENDING and (state != "active" or blocked):
                    yield f"{key[1]} was spent from while {'blocked' if blocked else state}"
                blocked = kind == "card.blocked" or (blocked and kind != "card.unblocked")
                state = ENDS.get(kind, state)
                yield from _wrong_transaction(key, event, account)
                shown = data["card"]
                if {name: shown[name] for name in AMOUNTS} != account.amounts:
                    yield f"{key[1]} shows other amounts at version {shown['version']} than it has"
                if not 0 <= account.amounts["amount_reserved"] <= account.amounts["amount_balance"]:
                    yield f"{key[1]} has {account.amounts} at version {shown['version']}"
                if (status := _status(event, account, state, blocked=blocked)) != shown["status"]:
                    yield f"{key[1]} shows {shown['status']} at {shown['version']}, not {status}"
                if kind in SPENDING and _is_outside(event):
                    yield f"{key[1]} was spent from outside its time at {event['time']}"
            row = self._cards.get(key)
            if row is None:
                yield f"{key[1]} has events and no row"
                continue
            wanted = {**account.amounts, "version": _version(event), "state": state}
            wanted |= {"blocked": blocked}
            if {name: row[name] for name in wanted} != wanted:
                yield f"the row of {key[1]} is not what its events give: {row}, not {wanted}"

    def rows(self) -> Iterator[str]:
        """Each card is told of."""
        for key, row in self._cards.items():
            if key in self.by_card or row["batch_id"] is not None:
                continue
            yield f"{key[1]} has a row and no event"
        for key in self.listed - self._cards.keys():
            yield f"{key[1]} is told of in a list and has no row"

    def sums(self) -> Iterator[str]:
        """Each card's amounts are the sums of its transactions, and no money comes from nowhere."""
        accounts: dict[str, Account] = defaultdict(Account)
        elsewhere: Counter[str] = Counter()
        between: Counter[str] = Counter()
        for moved in self._moved:
            accounts[moved["card"]].post(moved)
            for side in ("issuer", "merchant", "customer", "breakage", "other_card"):
                elsewhere[moved["currency"]] += moved["amount"] * _net(moved, side)
            between[moved["currency"]] += moved["amount"] * _net(moved, "other_card")
        for key, row in self._cards.items():
            if {name: row[name] for name in AMOUNTS} != accounts[row["id"]].amounts:
                yield f"the amounts of {key[1]} are not the sums of its transactions"
            if row["currency"] is not None:
                elsewhere[row["currency"]] += row["amount_balance"]
        for currency, left in elsewhere.items():
            if left or between[currency]:
                yield f"{currency}: {left} from nowhere, {between[currency]} between cards"

    def movements(self) -> Iterator[str]:
        """The transactions of the events are the rows."""
        told = {
            moved["id"]: _movement(moved)
            for events in self.by_card.values()
            for event in events
            if (moved := event["data"]["transaction"]) is not None
        }
        kept = {moved["id"]: _movement(moved) for moved in self._moved}
        for id in told.keys() ^ kept.keys():
            yield f"transaction {id} is {'told of' if id in told else 'a row'} only"
        for id in told.keys() & kept.keys():
            if told[id] != kept[id]:
                yield f"transaction {id} is told as {told[id]} and kept as {kept[id]}"

    def parts_of_movements(self) -> Iterator[str]:
        """No more is captured and released than was held, nor refunded than was spent."""
        amounts = {moved["id"]: moved["amount"] for moved in self._moved}
        used: Counter[tuple[str, str]] = Counter()
        for moved in self._moved:
            if moved["parent_id"] is not None:
                of = "refunded" if moved["type"] == "fund" else "held"
                used[moved["parent_id"], of] += moved["amount"]
        for (parent, of), amount in used.items():
            if amount > amounts.get(parent, 0):
                yield f"of {amounts.get(parent)} in transaction {parent}, {amount} was {of}"

    # --- stream and database ----------------------------------------------------------------------

    def outbox(self) -> Iterator[str]:
        """The outbox is the stream, to the byte, and nothing waits to be published."""
        kept = {row["id"]: row["event"] for row in self._rows("SELECT id::text, event FROM outbox")}
        for id in kept.keys() ^ self.first.keys():
            where = "in the outbox" if id in kept else "on the stream"
            yield f"event {id} is {where} only"
        for id in kept.keys() & self.first.keys():
            if kept[id] != self.first[id]:
                yield f"event {id} has other bytes in the outbox"
        ((waiting,),) = self._connection.execute("SELECT count(*) FROM unpublished").fetchall()
        if waiting:
            yield f"{waiting} events still wait to be published"

    def keys(self) -> Iterator[str]:
        """Each key has its answer, and no answer has two keys."""
        for row in self._rows(
            "SELECT event_id::text, count(*) AS keys FROM idempotency_keys GROUP BY 1"
        ):
            if row["event_id"] not in self.first:
                yield f"the key of event {row['event_id']} has no answer"
            if row["keys"] != 1:
                yield f"event {row['event_id']} has {row['keys']} keys"

    # --- time -------------------------------------------------------------------------------------

    def order(self) -> Iterator[str]:
        """A command that was sent when another was answered comes after it on the same card."""
        for key, events in self.by_card.items():
            earliest, after = float("inf"), None
            for event in sorted(events, key=_version, reverse=True):
                sent = self._sent(event)
                if sent is not None and earliest < sent:
                    yield f"{key[1]}: {event['correlationid']} was sent after {after} was answered"
                seen = self._journal.arrivals.get(event["id"], float("inf"))
                if seen < earliest:
                    earliest, after = seen, event["correlationid"]

    def _sent(self, event: Event) -> float | None:
        contents = self._journal.asked.get(event["correlationid"])
        return None if contents is None else min(one.first_sent for one in contents)

    def times(self) -> Iterator[str]:
        """The time of an event is that of the database, which has the same clock as this."""
        for event in self.events:
            time = datetime.fromisoformat(event["time"])
            seen = self._journal.arrivals.get(event["id"])
            if seen is not None:
                by = self._clock + timedelta(seconds=seen - self._clock_at)
                if time > by + CLOCK_SLACK:
                    yield f"event {event['id']} of {time} was seen at {by}"
            contents = self._journal.asked.get(event["correlationid"])
            if contents is not None:
                sent = min(one.first_sent_at for one in contents)
                if time < sent - CLOCK_SLACK:
                    yield f"event {event['id']} of {time} answers what was sent at {sent}"

    # --- PINs and orders --------------------------------------------------------------------------

    def pins(self) -> Iterator[str]:
        """No wrong PIN opens a card; five lock the PIN, and so does each one compared after that.

        Before the lock has ended, no token and no PIN opens the card, and no PIN locks it again.
        """
        wrong = {
            command_id
            for command_id, contents in self._journal.asked.items()
            if any(one.pin == "wrong" for one in contents)
        }
        told: Counter[str] = Counter()
        for event in self.events:
            if event["correlationid"] in wrong and is_answer(event) and not _reason(event):
                yield f"{event['correlationid']} brought a wrong PIN and was let in"
            if event["type"] == "card.pin_locked":
                told[event["data"]["card"]["id"]] += 1
        counting: dict[str, set[str]] = defaultdict(set)
        reached: Counter[str] = Counter()
        for row in self._rows(
            "SELECT id::text, card::text, outcome FROM audit.pin_attempts ORDER BY place"
        ):
            mine = counting[row["card"]]
            if row["outcome"] != "wrong":
                mine.discard(row["id"])
                continue
            mine.add(row["id"])
            reached[row["card"]] += len(mine) >= WRONG_PINS_MAX
        for card in told.keys() | reached.keys():
            if told[card] != reached[card]:
                yield f"card {card}: {reached[card]} wrong PINs lock it, {told[card]} locks"
        for key, events in self.by_card.items():
            yield from self._locks(key, sorted(events, key=_version))

    def _locks(self, key: CardKey, events: list[Event]) -> Iterator[str]:
        """Look at what happens to a card while its PIN is locked, as it shows itself."""
        ends = None
        for event in events:
            is_locked = ends is not None and _time(event["time"]) < ends
            pin = event["data"]["card"]["pin"] or {"locked_until": None}
            ends = pin["locked_until"] and _time(pin["locked_until"])
            if event["type"] == "card.pin_locked":
                if is_locked or ends - _time(event["time"]) < FIRST_LOCK - CLOCK_SLACK:
                    yield f"{event['correlationid']} locked {key[1]} too early, or too briefly"
            elif is_locked and is_answer(event):
                contents = self._journal.asked.get(event["correlationid"], ())
                if any(one.pin is not None for one in contents):
                    yield f"{event['correlationid']} brought a PIN to {key[1]} while it was locked"

    def orders(self) -> Iterator[str]:
        """Each order was made, all of it, and told so once."""
        accepted = {
            event["data"]["batch_id"]: event["data"]["requested"]
            for event in self.events
            if event["type"] == "batch.accepted" and not event["data"].get("dry_run")
        }
        told = Counter(
            event["data"]["batch_id"]
            for event in self.events
            if event["type"] == "batch.completed" and "cards" not in event["data"]
        )
        made = Counter(row["batch_id"] for row in self._cards.values())
        for batch_id, wanted in accepted.items():
            if (told[batch_id], made[batch_id]) != (1, wanted):
                yield (
                    f"{batch_id}: {made[batch_id]} of {wanted} cards, told {told[batch_id]} times"
                )


def _name(one: Asked) -> str:
    return f"{one.command_id} ({one.task})"


def _reason(event: Event) -> str | None:
    reason: str | None = event["data"].get("reason")
    return reason if event["type"] == "command.rejected" else None


def _version(event: Event) -> int:
    return int(event["sequence"])


def _is_sweep(event: Event) -> bool:
    is_asked = event["data"]["command"] in ("cards.expire", "holds.expire")
    return is_asked and str(event["correlationid"]).startswith("expire-")


def _wrong_transaction(key: CardKey, event: Event, account: Account) -> Iterator[str]:
    """Post the transaction of an event; yield where it doesn't fit."""
    moved = event["data"]["transaction"]
    if moved is None:
        return
    before = account.amounts["amount_balance"]
    account.post(moved)
    told = (moved["balance_before"], moved["balance_after"], moved["version"])
    if told != (before, account.amounts["amount_balance"], _version(event)):
        yield f"transaction {moved['id']} of {key[1]} doesn't follow the one before it"


def _status(event: Event, account: Account, state: str, *, blocked: bool) -> str:
    """Return what a card has to show after an event."""
    if state in ("inactive", "closed"):
        return state
    ends = event["data"]["card"]["expires_at"]
    if state == "expired" or (ends is not None and _time(ends) <= _time(event["time"])):
        return "expired"
    if blocked:
        return "blocked"
    if account.amounts["amount_drawdown"] == 0:
        return "unused"
    return "partially_used" if account.amounts["amount_balance"] else "used"


def _is_outside(event: Event) -> bool:
    """Say whether an event is before its card's beginning or after its end."""
    card, at = event["data"]["card"], _time(event["time"])
    starts, ends = card["active_from"], card["expires_at"]
    return (starts is not None and at < _time(starts)) or (ends is not None and at >= _time(ends))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _movement(moved: dict[str, Any]) -> tuple[Any, ...]:
    names = ("type", "amount", "currency", "debit", "credit", "version", "ref_id", "parent_id")
    return tuple(moved[name] for name in (*names, "balance_before", "balance_after"))
