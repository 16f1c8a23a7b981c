"""What was sent when, and what came back when: seconds of one monotonic clock."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from time import monotonic
from typing import Any

Event = dict[str, Any]
NEVER = datetime.max.replace(tzinfo=UTC)

# The types of an event that answers a command; `command.rejected` answers any. Other types are
# told besides: what comes to the other card, what was released, that a PIN was locked.
ANSWERS: dict[str, frozenset[str]] = {
    "cards.create": frozenset(["card.created"]),
    "cards.batch_create": frozenset(["batch.completed", "batch.accepted"]),
    "cards.activate": frozenset(["card.activated"]),
    "cards.reverse_activation": frozenset(["card.activation_reversed"]),
    "cards.update": frozenset(["card.updated"]),
    "cards.block": frozenset(["card.blocked"]),
    "cards.unblock": frozenset(["card.unblocked"]),
    "cards.close": frozenset(["card.closed"]),
    "cards.replace": frozenset(["card.replaced"]),
    "cards.transfer": frozenset(["card.transferred_out"]),
    "cards.adjust": frozenset(["card.adjusted"]),
    "cards.rotate_pin": frozenset(["card.pin_rotated"]),
    "cards.expire": frozenset(["card.expired"]),
    "tokens.create": frozenset(["token.created"]),
    "tokens.revoke": frozenset(["token.revoked"]),
    "transactions.create": frozenset(["card.funded", "card.drawn_down", "hold.placed"]),
    "transactions.capture": frozenset(["hold.captured"]),
    "transactions.void": frozenset(["hold.voided"]),
    "transactions.refund": frozenset(["card.refunded"]),
    "holds.expire": frozenset(["hold.expired"]),
}


def is_answer(event: Event) -> bool:
    """Say whether an event answers a command."""
    kind, data = event["type"], event["data"]
    if kind == "batch.completed" and "cards" not in data:
        return False  # the end of an order that was accepted before
    return kind == "command.rejected" or kind in ANSWERS.get(data["command"], ())


@dataclass(eq=False)
class Asked:
    """A command that has to be answered once.

    `card_id` is the card that it names, if it names one; `pin` says which PIN it brings.
    """

    command_id: str
    task: str
    card_id: str | None = None
    pin: str | None = None
    first_sent: float = 0.0
    """The beginning of the first attempt to send it."""
    first_sent_at: datetime = NEVER
    accepted: float | None = None
    """When the broker acknowledged it first."""
    answered: float | None = None
    """When its answer was seen first."""
    answer_id: str | None = None
    is_given_up: bool = False
    """Whether nobody waits for its answer any more."""


@dataclass(eq=False)
class Garbage:
    """A message that has to become one dead letter. `mark` is its id, or stands in its bytes."""

    mark: str
    parts: tuple[str, ...] = ()
    """What has to stand in the letter, if only parts of the message are garbage."""
    accepted: float | None = None


@dataclass(eq=False)
class Message:
    """Bytes for a queue, and what has to come of them."""

    raw: bytes
    queue: str
    asked: list[Asked] = field(default_factory=list)
    garbage: list[Garbage] = field(default_factory=list)


class Journal:
    """All that was sent and seen. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self.asked: dict[str, list[Asked]] = {}
        """By command_id: one for each content that was sent under it."""
        self.garbage: list[Garbage] = []
        self.arrivals: dict[str, float] = {}
        """When each event was seen first, by its id."""
        self._open: dict[str, list[Asked]] = {}
        self._lock = Lock()

    def sending(self, message: Message) -> None:
        """Note that the first attempt to send a message begins."""
        now, at = monotonic(), datetime.now(UTC)
        with self._lock:
            self.garbage += message.garbage
            for one in message.asked:
                if not one.first_sent:
                    one.first_sent, one.first_sent_at = now, at
                    self.asked.setdefault(one.command_id, []).append(one)
                    self._open.setdefault(one.command_id, []).append(one)

    def accepted(self, message: Message) -> None:
        """Note that the broker has acknowledged a message."""
        now = monotonic()
        with self._lock:
            waiting: list[Asked | Garbage] = [*message.asked, *message.garbage]
            for one in waiting:
                if one.accepted is None:
                    one.accepted = now

    def seen(self, id: str, raw: str) -> Event | None:
        """Note an event of the stream; return it when it is seen for the first time."""
        now = monotonic()
        if id in self.arrivals:
            return None
        event: Event = json.loads(raw)
        with self._lock:
            self.arrivals[id] = now
            waiting = self._open.get(event["correlationid"])
            if waiting and is_answer(event):
                one = waiting.pop(0)
                one.answered, one.answer_id = now, id
                if not waiting:
                    del self._open[event["correlationid"]]
        return event

    def unanswered(self) -> list[Asked]:
        """Return the accepted commands whose answer hasn't been seen and is waited for."""
        with self._lock:
            every = (one for waiting in self._open.values() for one in waiting)
            return [one for one in every if one.accepted is not None and not one.is_given_up]

    def give_up(self) -> None:
        """Wait no longer for the answers that are missing; should they come, they are noted."""
        for one in self.unanswered():
            one.is_given_up = True

    @property
    def sent(self) -> int:
        """How many commands and garbage messages the broker has acknowledged."""
        with self._lock:
            all_of: list[Asked | Garbage] = [one for each in self.asked.values() for one in each]
            all_of += self.garbage
            return sum(one.accepted is not None for one in all_of)
