"""Stories of orders: what is made piece by piece, and what may be done meanwhile."""

import json

import pytest

from card_worker.contracts.enums import Action
from card_worker.domain.rows import Job
from tests.domain.stories_of_orders import STORIES
from tests.domain.story import Story


@pytest.mark.parametrize("story", STORIES.values(), ids=list(STORIES))
def test_story(story: str) -> None:
    Story().run(story)


def begun(story: Story) -> list[Job]:
    return story.books.take_changes().jobs


def test_an_order_is_cut_into_chunks() -> None:
    story = Story().run("order B1: 10500 A{n} -> batch.accepted")
    (job,) = begun(story)
    assert (job.action, job.chunks, job.end, job.open_chunks) == (Action.MAKE, 3, 4, 3)
    assert [job.span(number) for number in (1, 2, 3)] == [(1, 5000), (5001, 5000), (10001, 500)]


def test_a_range_of_cards_is_cut_into_chunks_from_its_first_card_on() -> None:
    story = Story().run("order B1: 900 A{n} -> batch.accepted")
    story.run("made B1")
    begun(story)
    story.run("block-all B1 first=301 last=701 -> batch.recalling")
    (job,) = begun(story)
    assert [job.span(number) for number in range(1, job.end)] == [(301, 200), (501, 200), (701, 1)]


def test_nothing_begins_before_approval_nor_when_nothing_was_made() -> None:
    story = Story().run("order B1: 2 A{n} waits by=kari -> batch.awaiting_approval")
    assert begun(story) == []
    story.run("approve B1 by=ola -> batch.approved")
    assert [job.action for job in begun(story)] == [Action.MAKE]
    story.run("cancel B1 -> batch.cancelled")
    assert begun(story) == []


def test_both_names_stay_with_the_order() -> None:
    story = Story().run("""
        order     B1: 2 A{n} waits by=kari     -> batch.awaiting_approval
        approve   B1 by=ola                    -> batch.approved
        """)
    data = json.loads(story.told[-1].answer.event)["data"]
    assert (data["created_by"], data["approved_by"], data["state"]) == ("kari", "ola", "running")


def test_cards_whose_names_are_taken_are_named() -> None:
    story = Story().run("""
        create    A03 5 NOK                    -> card.created
        create    A11 5 NOK                    -> card.created
        order     B1: 10 A{n:02d}              -> command.rejected card_exists
        """)
    (problem,) = json.loads(story.told[-1].answer.event)["data"]["problems"]
    assert problem["field"] == "card_id_pattern"
    assert problem["message"].startswith("A03: ")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ("3 A", "must have one number"),
        ("3 A{n}{n}", "must have one number"),
        ("3 A{x}{n}", "no other braces"),
        ("0 A{n}", "must be at least 1"),
    ],
)
def test_what_is_no_order_is_told_what_is_wrong(fields: str, wrong: str) -> None:
    story = Story().run(f"order B1: {fields} -> command.rejected invalid")
    (problem, *_) = json.loads(story.told[-1].answer.event)["data"]["problems"]
    assert wrong in problem["message"]


def test_an_order_has_its_bounds() -> None:
    Story().run("""
        order     B1: 10000001 A{n}            -> command.rejected batch_too_large
        order     B1: 10000000 A{n}            -> batch.accepted
        """)
