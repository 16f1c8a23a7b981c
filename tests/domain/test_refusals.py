"""Refusals: which of several reasons is given, and what else a refusal says."""

import json
from collections.abc import Callable
from datetime import timedelta
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from card_worker.contracts.enums import Reason
from card_worker.domain.answers import answer
from card_worker.domain.events import CommandRejected
from card_worker.domain.rows import Card
from card_worker.money import Currency
from tests.domain.story import START, Story

ORDER = list(Reason)


class Cause(NamedTuple):
    """What makes a command be refused: a word for it, or a change of its card."""

    reason: Reason
    word: str = ""
    change: Callable[[Card], Card] | None = None
    account: str = ""


def _status(status: str) -> Callable[[Card], Card]:
    def change(card: Card) -> Card:
        story = Story()
        story.run(f"given A1 {status}")
        given = story.card("A1")
        return card._replace(state=given.state, blocked=given.blocked, expires_at=given.expires_at)

    return change


LATE = Cause(Reason.STALE_COMMAND, "not_after=-1s")
CLOSED = Cause(Reason.CARD_CLOSED, change=_status("closed"))
EXPIRED = Cause(Reason.CARD_EXPIRED, change=_status("due"))
INACTIVE = Cause(Reason.CARD_INACTIVE, change=_status("inactive"))
BLOCKED = Cause(Reason.CARD_BLOCKED, change=_status("blocked"))
ACTIVE = Cause(Reason.CARD_ALREADY_ACTIVE, change=_status("unused"))
INACTIVE_BLOCKED = Cause(Reason.CARD_BLOCKED, change=_status("inactive-blocked"))
PAST = Cause(Reason.INVALID, "expires=-1s")
NOT_STARTED = Cause(
    Reason.CARD_NOT_STARTED,
    change=lambda card: card._replace(active_from=START + timedelta(days=1)),
)
REFERENCE = Cause(Reason.IDEMPOTENCY_CONFLICT, "used")
CURRENCY = Cause(Reason.CURRENCY_MISMATCH, "SEK")
TOO_MUCH = Cause(Reason.EXCEEDS_AVAILABLE, "1000")
LIMIT = Cause(Reason.LIMIT_EXCEEDED, "1000", account="balance_max=600 load_max=600")
UNSEALED = Cause(Reason.INVALID, "unsealed")
WEAK = Cause(Reason.FORMAT_INVALID, "format=numbers:3")
ALIVE = (CLOSED, EXPIRED, INACTIVE, BLOCKED)
FUNDED = (CLOSED, EXPIRED, INACTIVE)
NOT_LATER = Cause(Reason.EXPIRY_NOT_LATER, "expires=+1h")
NOT_DUE = Cause(Reason.NOT_DUE)
NOT_BLOCKED = Cause(Reason.CARD_NOT_BLOCKED)

COMMANDS: dict[str, tuple[Cause, ...]] = {
    "draw A1": (LATE, *ALIVE, NOT_STARTED, CURRENCY, TOO_MUCH, REFERENCE),
    "hold A1": (LATE, *ALIVE, NOT_STARTED, CURRENCY, TOO_MUCH, REFERENCE),
    "fund A1": (LATE, *FUNDED, CURRENCY, LIMIT, REFERENCE),
    "adjust A1": (LATE, *FUNDED, CURRENCY, LIMIT, REFERENCE),
    "transfer A1 to=A2": (LATE, *ALIVE, NOT_STARTED, TOO_MUCH, REFERENCE),
    "capture @h": (LATE, CLOSED, Cause(Reason.EXCEEDS_HOLD, "1000"), REFERENCE),
    "refund @d": (LATE, *FUNDED, Cause(Reason.EXCEEDS_DRAWDOWN, "1000"), REFERENCE),
    "void @h": (LATE, REFERENCE),
    "activate A1": (
        LATE,
        PAST,
        CLOSED,
        EXPIRED,
        ACTIVE,
        INACTIVE_BLOCKED,
        Cause(Reason.TOKEN_NOT_FOUND, "token=once"),
        LIMIT,
    ),
    "create A1": (LATE, PAST, Cause(Reason.CARD_EXISTS), LIMIT),
    "update A1": (LATE, PAST, CLOSED, NOT_LATER),
    "reverse A1": (LATE, *ALIVE, Cause(Reason.NOT_REVERSIBLE)),
    "block A1": (LATE, CLOSED, BLOCKED),
    "unblock A1": (LATE, CLOSED, NOT_BLOCKED),
    "close A1": (LATE, *FUNDED, Cause(Reason.EXCEEDS_AVAILABLE)),
    "replace A1 to=A9": (LATE, *FUNDED, Cause(Reason.EXCEEDS_AVAILABLE)),
    "expire A1": (LATE, CLOSED, INACTIVE, NOT_DUE),
    "token A1 t1": (LATE, CLOSED, UNSEALED, WEAK),
    "repin A1": (LATE, CLOSED, UNSEALED, WEAK),
    "revoke A1 $none": (LATE, CLOSED, Cause(Reason.TOKEN_NOT_FOUND)),
}
"""For each command the causes that can be combined; those without word or change always hold."""

PAIRS = [
    (command, pair)
    for command, causes in COMMANDS.items()
    for pair in combinations(causes, 2)
    if not (pair[0].change and pair[1].change and NOT_STARTED not in pair)
    and not ("expires" in pair[0].word and "expires" in pair[1].word)
]


def _refusal(command: str, causes: tuple[Cause, ...]) -> Reason:
    story = Story().run("""
        create    A2 5 NOK                     -> card.created
        create    A1 500 NOK expires=+9d       -> card.created
        draw      A1 10 NOK d                  -> card.drawn_down
        hold      A1 10 NOK h                  -> hold.placed
        """)
    for cause in causes:
        if cause.account:
            story.run(f"account {cause.account}")
        if cause.change is not None:
            story.books.put_card(cause.change(story.card("A1")))
    if command == "activate A1" and not any(cause.change for cause in causes):
        story.books.put_card(_status("inactive")(story.card("A1")))
    words = " ".join(cause.word for cause in causes if cause.word).replace("used", "d")
    if command.split(maxsplit=1)[0] in ("draw", "hold", "fund", "adjust", "create", "activate"):
        words += "" if "1000" in words else " 1"
        words += "" if "SEK" in words else " NOK"
    if command == "update A1" and "expires" not in words:
        words += " name=Kari"
    return refusal(story, f"{command} {words}").reason


def refusal(story: Story, asked: str) -> CommandRejected:
    event = story.decide(asked).answer
    assert isinstance(event, CommandRejected), f"not refused: {asked}"
    return event


@pytest.mark.parametrize(("command", "causes"), PAIRS)
def test_of_two_reasons_the_first_in_the_order_of_reasons_is_given(
    command: str, causes: tuple[Cause, Cause]
) -> None:
    always = [cause for cause in COMMANDS[command] if cause == Cause(cause.reason)]
    reasons = {cause.reason for cause in (*causes, *always)}
    assert _refusal(command, causes) is min(reasons, key=ORDER.index)


@pytest.mark.parametrize("first", ["unused", "inactive", "closed", "due", "blocked", "late"])
@pytest.mark.parametrize(
    "second", ["unused", "inactive", "inactive-blocked", "closed", "due", "blocked", "absent"]
)
def test_the_reasons_against_two_cards_have_one_order(first: str, second: str) -> None:
    """Each card alone gives its reason; both together the first of the two."""

    def reasons(command: str, first: str, second: str) -> set[Reason]:
        story = Story().run("create A1 500 NOK from=+1d -> card.created")
        if first != "late":
            story.books.put_card(story.card("A1")._replace(active_from=None))
            story.run(f"turn A1 {first}")
        if second != "absent":
            story.run(f"given A2 {second}")
        event = story.decide(f"{command} A1 to=A2").answer
        return {event.reason} if isinstance(event, CommandRejected) else set()

    for command, good in (("transfer", "unused"), ("replace", "inactive")):
        alone = reasons(command, first, good) | reasons(command, "unused", second)
        expected = {min(alone, key=ORDER.index)} if alone else set()
        assert reasons(command, first, second) == expected, command


def test_a_refund_stays_in_its_currency() -> None:
    story = Story().run("""
        create    A1 10 NOK                    -> card.created
        draw      A1 10 NOK d                  -> card.drawn_down
        replace   A1 to=A2                     -> card.replaced + card.created
        """)
    # As it can be after a reversal by an older version.
    story.books.put_card(story.card("A2")._replace(currency=Currency.SEK))
    assert refusal(story, "refund @d").reason is Reason.CURRENCY_MISMATCH


def refused(story: Story, asked: str) -> dict[str, Any]:
    """Return the data of a refusal."""
    event = refusal(story, asked)
    data: dict[str, Any] = json.loads(answer(story.books, event, None).event)["data"]
    return data


def test_a_refusal_names_the_status_of_a_card_that_was_named_by_its_id() -> None:
    story = Story().run("""
        create    A1 500 NOK token             -> card.created
        draw      A1 100 NOK d1                -> card.drawn_down
        block     A1                           -> card.blocked
        """)
    for asked in ("draw A1 1 NOK", "transfer A1 to=A2 1", "block A1", "create A1 1 NOK"):
        assert refused(story, asked)["status"] == "blocked", asked
    assert refused(story, "draw A1 1 NOK not_after=-1s")["status"] == "blocked"
    for asked in ("draw A2 1 NOK", "draw $A1 1 NOK", "draw A1 0 NOK", "adjust A1 1 NOK d1"):
        assert "status" not in refused(story, asked), asked


def test_who_names_a_card_by_its_id_learns_what_is_available() -> None:
    story = Story().run("""
        create    A1 500 NOK token             -> card.created
        hold      A1 100 NOK                   -> hold.placed
        hold      A1 50 NOK lasts=+1h          -> hold.placed
        """)
    for asked in ("draw A1 501 NOK", "hold A1 351 NOK", "adjust A1 -400 NOK", "close A1"):
        data = refused(story, asked)
        assert data["reason"] == "exceeds_available"
        assert (data["amount_available"], data["amount_reserved"]) == (35_000, 15_000), asked
    data = refused(story, "draw $A1 501 NOK")
    assert data["reason"] == "exceeds_available"
    assert not {"amount_available", "amount_reserved", "status"} & data.keys()
    story.run("wait 1h")
    data = refused(story, "draw A1 501 NOK")
    assert (data["amount_available"], data["amount_reserved"]) == (40_000, 10_000)
    assert "amount_available" not in refused(story, "draw A1 1 SEK")
