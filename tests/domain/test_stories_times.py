"""Stories of what time does: dates of a card, commands that come late, and the order of reasons."""

from datetime import timedelta

import pytest

from card_worker.domain.rows import State
from tests.domain.story import Story

STORIES = {
    "a card expires to the millisecond, whoever looks": """
        create    A1 5 NOK expires=+10s        -> card.created        # A1: 5 unused
        wait      9s
        expire    A1                           -> command.rejected not_due
        wait      1s                                                  # A1: 5 expired
        expire    A1                           -> card.expired        # A1: 5 expired
    """,
    "a card that has not started may be waited for": """
        create    A1 5 NOK from=+1h expires=+2h -> card.created       # A1: 5 unused
        expire    A1                           -> command.rejected not_due
        wait      2h
        expire    A1                           -> card.expired
    """,
    "a card without an end never is due": """
        create    A1 5 NOK                     -> card.created
        wait      99999d
        expire    A1                           -> command.rejected not_due  # A1: 5 unused
    """,
    "a card made by a batch has no end before it is activated": """
        batch     B1: A1                       -> batch.completed
        wait      9999d
        expire    A1                           -> command.rejected card_inactive
        activate  A1 5 NOK expires=+1d         -> card.activated      # A1: 5 unused
    """,
    "an expired card is not made again": """
        create    A1 5 NOK expires=+1s         -> card.created
        wait      1s
        create    A1 5 NOK                     -> command.rejected card_exists
        batch     B1: A1                       -> command.rejected card_exists
        activate  A1 5 NOK                     -> command.rejected card_expired
    """,
    "lateness is told before what the card shows, wrong fields before lateness": """
        activate  A1 5 NOK not_after=-1s       -> command.rejected stale_command
        expire    A1 not_after=-1s             -> command.rejected stale_command
        create    A1 5 NOK not_after=-1s       -> command.rejected stale_command
        create    A1 5 NOK expires=-1s not_after=-1s -> command.rejected invalid
        create    A1 -5 NOK not_after=-1s      -> command.rejected invalid
    """,
    "a command may be done at its last moment, not after": """
        create    A1 5 NOK not_after=+0s       -> card.created
        wait      1h
        create    A2 5 NOK not_after=+0s       -> card.created
        create    A3 5 NOK not_after=-1s       -> command.rejected stale_command
    """,
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_a_story_goes_as_told(story: str) -> None:
    assert Story().run(story).told


def test_a_card_starts_when_it_is_activated_unless_it_says_otherwise() -> None:
    story = Story().run("""
        batch     B1: A1 A2                    -> batch.completed
        wait      1h
        activate  A1 5 NOK                     -> card.activated
        activate  A2 5 NOK from=+1h            -> card.activated
        """)
    assert story.card("A1").active_from is None
    assert story.card("A2").active_from == story.now + timedelta(hours=1)


def test_only_what_writes_the_expiry_down_raises_the_version() -> None:
    story = Story().run("create A1 5 NOK expires=+1s -> card.created\nwait 1s")
    assert (story.card("A1").state, story.card("A1").version) == (State.ACTIVE, 1)
    story.run("expire A1 -> card.expired\nexpire A1 -> command.rejected card_expired")
    assert (story.card("A1").state, story.card("A1").version) == (State.EXPIRED, 2)


def test_expiry_moves_no_money() -> None:
    story = Story().run("create A1 5 NOK expires=+1s -> card.created\nwait 1s")
    story.run("expire A1 -> card.expired # A1: 5 expired")
    assert [one.amount for one in story.books.transactions] == [500]
