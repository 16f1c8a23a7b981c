"""Stories of dry runs: the same rules and the same answer, and nothing comes of it."""

import json
from typing import Any

import pytest

from tests.domain.story import Story

BEFORE = """
    batch     B1: A1 A2                    -> batch.completed
    create    A3 5 NOK expires=+1h         -> card.created
    wait      1h
    """
DONE = [
    "create    A9 7 SEK       -> card.created",
    "create    A9 0 SEK       -> card.created",
    "activate  A1 7 SEK       -> card.activated",
    "batch     B9: A8 A9      -> batch.completed",
    "expire    A3             -> card.expired",
]
REFUSED = [
    "create    A1 7 SEK       -> command.rejected card_exists",
    "activate  A9 7 SEK       -> command.rejected card_not_found",
    "activate  A3 7 SEK       -> command.rejected card_expired",
    "activate  A1 -7 SEK      -> command.rejected invalid",
    "batch     B1: A9         -> command.rejected batch_state",
    "expire    A1             -> command.rejected card_inactive",
    "expire    A3 not_after=-1s -> command.rejected stale_command",
]


def told(line: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(Story().run(BEFORE).run(line).told[-1].answer.event)
    return event


@pytest.mark.parametrize("line", [*DONE, *REFUSED])
def test_a_dry_run_says_what_would_be_said_but_claims_no_place(line: str) -> None:
    dry, real = told(f"dry {line}"), told(line)
    assert dry["data"].pop("dry_run") is True
    assert dry.pop("id") != real.pop("id")
    assert "sequence" not in dry
    real.pop("sequence", None)
    # A transaction's id derives from its event's, which is another.
    for event in (dry, real):
        (event["data"].get("transaction") or {}).pop("id", None)
    assert dry == real


@pytest.mark.parametrize("line", [*DONE, *REFUSED])
def test_a_dry_run_changes_nothing(line: str) -> None:
    story = Story().run(BEFORE)
    books = story.books
    before = dict(books.cards), dict(books.batches), list(books.transactions)
    story.run(f"dry {line}\ndry {line}")
    assert (dict(books.cards), dict(books.batches), books.transactions) == before


@pytest.mark.parametrize("line", DONE)
def test_what_was_tried_may_be_done(line: str) -> None:
    assert Story().run(BEFORE).run(f"dry {line}\n{line}").told
