"""The rules, told as stories: every cell of the table of what is allowed, and every reason."""

import json
from datetime import timedelta

import pytest

from card_worker.contracts.commands import Command
from card_worker.contracts.enums import Reason, Status, TransactionType
from card_worker.contracts.fields import read_time
from card_worker.contracts.queries import CardQuery
from card_worker.contracts.transactions import CreateTransaction, RefundTransaction
from card_worker.domain.events import CommandRejected
from card_worker.domain.states import ALLOWED, Fund
from card_worker.domain.views import token_view
from tests.domain import stories_of_codes, stories_of_money
from tests.domain.story import Story, Told, reasons

STORIES = {
    "a card is made by a batch, activated once, and expires": """
        batch     B1: A1 A2                    -> batch.completed     # A1: 0 inactive
        activate  A1 500 NOK expires=+1d       -> card.activated      # A1: 500 unused
        activate  A1 500 NOK                   -> command.rejected card_already_active
        expire    A1                           -> command.rejected not_due
        wait      1d
        activate  A1 500 NOK                   -> command.rejected card_expired
        expire    A1                           -> card.expired        # A1: 500 expired
        expire    A1                           -> command.rejected card_expired
        expire    A2                           -> command.rejected card_inactive
    """,
    "a card is made active at once": """
        create    A1 75 SEK                    -> card.created        # A1: 75 unused
        create    A1 75 SEK                    -> command.rejected card_exists
        create    A2 0 EUR type=credit_note    -> card.created        # A2: 0 unused
        batch     B1: A3 A1                    -> command.rejected card_exists
    """,
    "a card that nobody made": """
        activate  A1 500 NOK                   -> command.rejected card_not_found
        expire    A1                           -> command.rejected card_not_found
    """,
    "a batch is all or nothing": """
        batch     B1: A1 A2 A1                 -> command.rejected duplicate_in_batch
        batch     B1: A1 A2                    -> batch.completed
        batch     B1: A3                       -> command.rejected batch_state
        batch     B2: A3 A2                    -> command.rejected card_exists
        activate  A3 1 NOK                     -> command.rejected card_not_found
    """,
    "dates must lie in order and ahead": """
        batch     B1: A1 A2                    -> batch.completed
        activate  A1 5 NOK expires=-1s         -> command.rejected invalid
        activate  A1 5 NOK expires=+0s         -> command.rejected invalid
        activate  A1 5 NOK from=+2d expires=+1d -> command.rejected invalid
        create    A9 5 NOK from=+1d expires=+1d -> command.rejected invalid
        activate  A1 5 NOK from=+1d expires=+2d -> card.activated     # A1: 5 unused
        activate  A2 5 NOK from=-9d            -> card.activated      # A2: 5 unused
    """,
    "what comes too late is refused instead of done": """
        batch     B1: A1                       -> batch.completed
        activate  A1 5 NOK not_after=-1s       -> command.rejected stale_command
        activate  A1 5 NOK not_after=+0s       -> card.activated
    """,
    "amounts and currencies": """
        batch     B1: A1                       -> batch.completed
        activate  A1 -1 NOK                    -> command.rejected invalid
        activate  A1 5 GBP                     -> command.rejected invalid
        activate  A1 0 NOK                     -> card.activated      # A1: 0 unused
    """,
    "a dry run changes nothing": """
        batch     B1: A1                       -> batch.completed
        dry activate A1 5 NOK                  -> card.activated      # A1: 0 inactive
        dry create A1 5 NOK                    -> command.rejected card_exists
        dry batch B2: A7                       -> batch.completed
        activate  A7 5 NOK                     -> command.rejected card_not_found
    """,
    "creating a card that exists, whatever it shows": """
        given     A1 inactive
        create    A1 1 NOK                     -> command.rejected card_exists
        given     A1 closed
        create    A1 1 NOK                     -> command.rejected card_exists
        given     A1 expired
        create    A1 1 NOK                     -> command.rejected card_exists
        given     A1 blocked
        create    A1 1 NOK                     -> command.rejected card_exists
        given     A1 used
        create    A1 1 NOK                     -> command.rejected card_exists
        given     A1 partially_used
        create    A1 1 NOK                     -> command.rejected card_exists
    """,
    "activating a card that was activated, whatever it shows": """
        given     A1 closed
        activate  A1 1 NOK                     -> command.rejected card_closed
        given     A1 expired
        activate  A1 1 NOK                     -> command.rejected card_expired
        given     A1 due
        activate  A1 1 NOK                     -> command.rejected card_expired
        given     A1 blocked
        activate  A1 1 NOK                     -> command.rejected card_already_active
        given     A1 inactive-blocked
        activate  A1 1 NOK                     -> command.rejected card_blocked
        given     A1 used
        activate  A1 1 NOK                     -> command.rejected card_already_active
        given     A1 partially_used
        activate  A1 1 NOK                     -> command.rejected card_already_active
    """,
    "expiring a card before or after its time": """
        given     A1 closed
        expire    A1                           -> command.rejected card_closed
        given     A1 blocked
        expire    A1                           -> command.rejected not_due
        given     A1 used
        expire    A1                           -> command.rejected not_due
        given     A1 partially_used
        expire    A1                           -> command.rejected not_due
        given     A1 due
        expire    A1                           -> card.expired        # A1: 0 expired
    """,
}
STORIES |= stories_of_money.STORIES | stories_of_money.CELLS
STORIES |= stories_of_codes.STORIES | stories_of_codes.CELLS
# The reasons of queries and of orders; tested where those are.
# Those of signatures: tests/storage/test_senders.py.
ELSEWHERE = {
    Reason.BATCH_NOT_FOUND,
    Reason.TOO_MANY_WAITING,
    Reason.NOT_PERMITTED,
    Reason.SIGNATURE_STALE,
    Reason.SIGNATURE_FROM_THE_FUTURE,
    Reason.TOO_MANY_ATTEMPTS,
}
# Nothing has been drawn down of a card that shows this.
IMPOSSIBLE = {(RefundTransaction, Status.UNUSED)}
TOO_MANY = "batch B1: " + " ".join(f"A{n}" for n in range(1001))


def row_of(command: Command | CardQuery) -> type:
    """Return which row of the table a command belongs to."""
    is_fund = isinstance(command, CreateTransaction) and command.type is TransactionType.FUND
    return Fund if is_fund else type(command)


def told() -> list[Told]:
    stories = [*STORIES.values(), f"{TOO_MANY} -> command.rejected batch_too_large"]
    return [line for story in stories for line in Story().run(story).told]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_a_story_goes_as_told(story: str) -> None:
    assert Story().run(story).told


def test_a_story_that_goes_otherwise_is_found_out() -> None:
    with pytest.raises(AssertionError, match="card_not_found: activate"):
        Story().run("activate A1 5 NOK -> card.activated")
    with pytest.raises(AssertionError, match="A1 shows 5 unused"):
        Story().run("create A1 5 NOK -> card.created # A1: 6 unused")


def test_a_listed_batch_has_at_most_a_thousand_cards() -> None:
    Story().run(f"{TOO_MANY} -> command.rejected batch_too_large")
    Story().run(f"{TOO_MANY.rpartition(' ')[0]} -> batch.completed")


def test_every_cell_of_the_table_is_told_by_a_story() -> None:
    seen = {
        (row_of(one.event.command), one.before)
        for one in told()
        if row_of(one.event.command) in ALLOWED
        and not (isinstance(one.event, CommandRejected) and one.event.reason is Reason.INVALID)
    }
    cells = {(command, status) for command, row in ALLOWED.items() for status in [None, *Status]}
    assert all(set(row) == {None, *Status} for row in ALLOWED.values())
    assert cells - seen == IMPOSSIBLE


def test_every_reason_is_told_by_a_story() -> None:
    assert set(Reason) - reasons(told()) == ELSEWHERE


def test_a_refused_batch_names_the_cards_that_stand_in_its_way() -> None:
    story = Story().run(
        "batch B1: " + " ".join(f"A{n}" for n in range(30)) + " -> batch.completed\n"
        "batch B2: X1 " + " ".join(f"A{n}" for n in range(30)) + " -> command.rejected card_exists"
    )
    problems = json.loads(story.told[-1].answer.event)["data"]["problems"]
    assert len(problems) == 20
    assert problems[0] == {
        "field": "cards.1.card_id",
        "message": "A0: A card with this card_id exists",
    }


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ("create A1 5 NOK token format=numbers:15", "card_token.format"),
        ("create A1 5 NOK pin=3", "pin.format"),
        ("batch B1: A1 token format=numbers:15", "options.card_token.format"),
        ("batch B1: A1 pin=3", "options.pin.format"),
        ("token A0 t1 format=numbers:15", "format"),
        ("repin A0 format=numbers:3", "pin.format"),
    ],
)
def test_a_format_that_is_refused_is_named_as_its_sender_wrote_it(asked: str, fields: str) -> None:
    story = Story().run(
        f"create A0 5 NOK -> card.created\n{asked} -> command.rejected format_invalid"
    )
    (problem,) = json.loads(story.told[-1].answer.event)["data"]["problems"]
    assert problem["field"] == fields


def test_a_card_loaded_with_nothing_has_no_transaction() -> None:
    story = Story().run("create A1 0 NOK -> card.created\ncreate A2 5 NOK -> card.created")
    first, second = (json.loads(one.answer.event)["data"]["transaction"] for one in story.told)
    assert first is None
    assert (second["amount"], second["debit"], second["credit"]) == (500, "issuer", "card")
    assert (second["balance_before"], second["balance_after"]) == (0, 500)


def test_a_transaction_says_why_money_was_put_onto_the_card() -> None:
    story = Story().run("""
        batch     B1: A1                       -> batch.completed
        activate  A1 5 NOK funding=promotional -> card.activated
        create    A2 5 NOK                     -> card.created
        fund      A1 5 NOK funding=compensation -> card.funded
        adjust    A1 5 NOK funding=promotional -> card.adjusted
        adjust    A1 -5 NOK                    -> card.adjusted
        draw      A1 5 NOK d1                  -> card.drawn_down
        refund    @d1                          -> card.refunded
        transfer  A1 to=A2                     -> card.transferred_out + card.transferred_in
        draw      A2 5 NOK funding=promotional -> command.rejected invalid
        adjust    A2 -5 NOK funding=promotional -> command.rejected invalid
        """)
    assert [row.funding for row in story.books.transactions] == [
        *("promotional", "sold", "compensation", "promotional"),
        *[None] * 5,
    ]
    shown = [json.loads(one.answer.event)["data"]["transaction"] for one in story.told[1:6]]
    assert [row["funding"] for row in shown] == [
        *("promotional", "sold", "compensation", "promotional", None)
    ]


def test_an_adjustment_tells_why() -> None:
    story = Story().run("create A1 500 NOK -> card.created\nadjust A1 -5 NOK -> card.adjusted")
    data = json.loads(story.told[-1].answer.event)["data"]
    assert data["reason_text"]


def test_locks_of_a_pin_double_up_to_a_day() -> None:
    story, asked = Story(), "draw $A1 1 NOK pin=wrong -> command.rejected"
    story.run("create A1 5 NOK token pin -> card.created")
    for _ in range(4):
        story.run(f"{asked} card_not_usable")
    hours = []
    for _ in range(20):
        story.run(f"{asked} + card.pin_locked card_not_usable")
        card = json.loads(story.events[-1].event)["data"]["card"]
        ends = read_time(card["pin"]["locked_until"])
        hours.append((ends - story.now) / timedelta(hours=1))
        story.now = ends
    assert hours == [0.25, 0.5, 1, 2, 4, 8, 16, *[24] * 13]
    story.run("draw $A1 1 NOK pin=right -> card.drawn_down")
    assert json.loads(story.events[-1].event)["data"]["card"]["pin"]["locked_until"] is None


def test_a_format_is_shown_with_its_defaults() -> None:
    story = Story().run("create A1 5 NOK token pin -> card.created")
    card = json.loads(story.told[0].answer.event)["data"]["card"]
    digits = {"symbols": None, "numbers": True, "characters": None, "unambiguous": False}
    assert card["pin"] == {"format": {**digits, "length": 4}, "locked_until": None}
    assert card["tokens"][0]["format"] is None
    (token,) = story.books.tokens.values()
    shown = token_view(token._replace(format={"numbers": True, "length": 16}))
    assert shown["format"] == {**digits, "length": 16, "prefix": "", "barcode": None}


def test_the_release_after_a_final_capture_has_no_reference() -> None:
    story = Story().run("""
        create    A1 500 NOK                   -> card.created
        hold      A1 300 NOK h1                -> hold.placed
        capture   @h1 50 c1 final=yes          -> hold.captured + hold.voided
        """)
    captured, released = (json.loads(event.event) for event in story.events[-2:])
    assert captured["data"]["hold"]["amount_open"] == 25_000
    assert released["data"]["hold"]["amount_open"] == 0
    assert released["data"]["transaction"]["ref_id"] is None
    assert released["data"]["transaction"]["amount"] == 25_000
    assert released["correlationid"] == captured["correlationid"]
    assert released["id"] != captured["id"]


def test_an_expired_card_keeps_its_balance_and_shows_expired_before_the_sweep() -> None:
    story = Story().run("create A1 5 NOK expires=+1h -> card.created\nwait 1h")
    assert story.card("A1").status(story.now) is Status.EXPIRED
    story.run("expire A1 -> card.expired # A1: 5 expired")


def test_an_event_names_its_place_in_the_life_of_its_card() -> None:
    story = Story().run("""
        batch     B1: A1                       -> batch.completed
        activate  A1 5 NOK expires=+1h         -> card.activated
        wait      1h
        expire    A1                           -> card.expired
        expire    A1                           -> command.rejected card_expired
        """)
    sequences = [json.loads(one.answer.event).get("sequence") for one in story.told]
    assert sequences == [None, f"{2:020}", f"{3:020}", None]
