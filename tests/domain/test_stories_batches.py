"""Stories of batches: all or nothing, and what a refused one says."""

import json
from typing import Any

import pytest

from card_worker.contracts.commands import Command
from card_worker.contracts.enums import CardType, EventType
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer, answer
from card_worker.domain.decide import apply, decide
from tests.domain.story import ACCOUNT, Story


def data(given: Answer) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(given.event)["data"]
    return told


def order(*cards: dict[str, Any], command_id: str = "order-1", **fields: Any) -> Command:
    asked = {"account_id": ACCOUNT, "cards": list(cards), **fields}
    (command,) = read_commands("cards.batch_create", command_id, asked)
    assert not isinstance(command, UnreadableItem)
    return command


def ask(story: Story, command: Command) -> Answer:
    event = decide(story.books, command, story.now).answer
    return answer(story.books, event, apply(event, story.books))


@pytest.mark.parametrize(
    "refused",
    [
        "batch B2: A7 A8 A1 -> command.rejected card_exists",
        "batch B2: A7 A8 A7 -> command.rejected duplicate_in_batch",
        "batch B1: A7 A8    -> command.rejected batch_state",
        "batch B2: A7 not_after=-1s -> command.rejected stale_command",
    ],
)
def test_a_refused_batch_makes_nothing(refused: str) -> None:
    story = Story().run("batch B1: A1 -> batch.completed")
    cards, batches = dict(story.books.cards), dict(story.books.batches)
    story.run(refused)
    assert story.books.cards == cards
    assert story.books.batches == batches
    assert story.books.transactions == []


def test_the_name_of_a_refused_batch_is_free() -> None:
    Story().run("""
        create    A1 5 NOK                     -> card.created
        batch     B1: A1                       -> command.rejected card_exists
        batch     B1: A2                       -> batch.completed     # A2: 0 inactive
        """)


def test_of_several_reasons_a_batch_is_told_the_first() -> None:
    many = " ".join(f"X{number}" for number in range(1001))
    Story().run(f"""
        batch     B1: A1                       -> batch.completed
        batch     B1: A2 A2 {many} A1          -> command.rejected batch_too_large
        batch     B1: A2 A2 A1                 -> command.rejected duplicate_in_batch
        batch     B1: A2 A1                    -> command.rejected batch_state
        batch     B2: A2 A1                    -> command.rejected card_exists
        batch     B2: A2 A2 not_after=-1s      -> command.rejected stale_command
        """)


def test_twins_are_named_once_each_by_their_first_place() -> None:
    story = Story().run("batch B1: A1 A2 A3 A2 A1 A2 -> command.rejected duplicate_in_batch")
    problems = data(story.told[-1].answer)["problems"]
    assert [problem["field"] for problem in problems] == ["cards.0.card_id", "cards.1.card_id"]
    assert [problem["message"].partition(":")[0] for problem in problems] == ["A1", "A2"]


def test_at_most_20_twins_are_named() -> None:
    twins = " ".join(f"A{number} A{number}" for number in range(25))
    story = Story().run(f"batch B1: {twins} -> command.rejected duplicate_in_batch")
    assert len(data(story.told[-1].answer)["problems"]) == 20


def test_a_batch_tells_of_all_its_cards_in_their_order() -> None:
    story = Story()
    cards = [{"card_id": "A2"}, {"card_id": "A1", "type": "gift_card"}]
    told = data(ask(story, order(*cards, batch_id="B1", type="credit_note", name="Autumn")))
    ids = [str(story.card(card_id).id) for card_id in ("A2", "A1")]
    made = {"status": "inactive", "masked_code": None}
    assert told["cards"] == [
        {"id": ids[0], "card_id": "A2", "type": "credit_note", **made},
        {"id": ids[1], "card_id": "A1", "type": "gift_card", **made},
    ]
    assert (told["batch_id"], told["state"], told["name"]) == ("B1", "completed", "Autumn")
    assert (told["requested"], told["created"], told["file"]) == (2, 2, None)
    types = [story.card(card_id).type for card_id in ("A2", "A1")]
    assert types == [CardType.CREDIT_NOTE, CardType.GIFT_CARD]


def test_a_batch_without_a_name_is_called_as_its_command() -> None:
    story = Story()
    told = ask(story, order({"card_id": "A1"}))
    assert told.subject == data(told)["batch_id"] == "order-1"
    assert story.card("A1").batch_id == "order-1"
    refused = ask(story, order({"card_id": "A2"}, batch_id="order-1", command_id="order-2"))
    assert data(refused)["reason"] == "batch_state"


def test_a_card_of_a_batch_begins_inactive_at_version_1_without_money() -> None:
    story = Story().run("batch B1: A1 -> batch.completed # A1: 0 inactive")
    card = story.card("A1")
    assert (card.version, card.currency, card.amount, card.active_from) == (1, None, 0, None)
    assert "sequence" not in json.loads(story.told[-1].answer.event)


def test_a_card_keeps_what_its_batch_gave_it_when_it_is_activated() -> None:
    story = Story()
    ask(story, order({"card_id": "A1"}, type="credit_note", created_by="kari"))
    story.run("activate A1 5 NOK created_by=ola originated_by=till-7 -> card.activated")
    card = story.card("A1")
    assert (card.type, card.batch_id, card.created_by) == ("credit_note", "order-1", "kari")
    shown = data(story.told[-1].answer)["card"]
    assert (shown["activated_by"], shown["activated_from"]) == ("ola", "till-7")
    assert (shown["created_by"], shown["originated_by"]) == ("kari", None)


def test_a_batch_with_tokens_shows_them_masked() -> None:
    story = Story().run("batch B1: A1 A2 token -> batch.completed")
    cards = data(story.told[-1].answer)["cards"]
    masked = [
        f"DINCARD:********-****-****-****-********{story.values[card_id][-4:]}"
        for card_id in ("A1", "A2")
    ]
    assert [card["masked_code"] for card in cards] == masked


def test_activations_are_counted_and_versions_go_on() -> None:
    story = Story().run("""
        batch     B1: A1                       -> batch.completed
        activate  A1 5 NOK created_by=ola      -> card.activated
        reverse   A1                           -> card.activation_reversed
        activate  A1 5 NOK                     -> card.activated
        create    A2 5 NOK                     -> card.created
        replace   A2 to=A3                     -> card.replaced + card.created
        """)
    shown = [data(one.answer)["card"] for one in story.told[1:4]]
    assert [card["activation"] for card in shown] == [1, 1, 2]
    assert [card["version"] for card in shown] == [2, 3, 4]
    assert [card["activated_by"] for card in shown] == ["ola", None, None]
    assert [story.card(card_id).activation for card_id in ("A2", "A3")] == [1, 1]


def test_a_refused_batch_is_about_the_batch() -> None:
    story = Story().run("create A1 5 NOK -> card.created")
    story.run("batch B1: A1 -> command.rejected card_exists")
    refused = story.told[-1].answer
    assert (refused.type, refused.subject) == (EventType.COMMAND_REJECTED, "B1")
    assert "card_id" not in data(refused)
