"""Handling dead letters with the command line."""

import json
from typing import Any

import pytest

from tests.flow import defects
from tests.flow.system import ACCOUNT, System, card, envelope


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    shared.start("worker")
    shared.start("relay")
    return shared


def _id(running: System, message_id: str) -> str:
    return str(running.letter(message_id).id)


def test_a_letter_is_listed_without_its_body_and_shown_with_it(running: System) -> None:
    message = envelope("cards.create", "look", card("look", account_id=None, name="Kari"))
    running.push(message)
    letter = running.letter("look")
    letters = {each["id"]: each for each in running.cli_json("dead-letters", "list")}
    listed = letters[letter.id]
    assert listed["reason"] == "account_id_invalid"
    assert listed["message"] == letter.reason.text
    assert "body" not in listed
    assert "Kari" not in running.cli("dead-letters", "list").output
    (shown,) = running.cli_json("dead-letters", "show", str(letter.id))
    assert json.loads(shown["body"])[1]["name"] == "Kari"
    assert "Kari" in running.cli("dead-letters", "show", str(letter.id)).output


def test_a_requeued_message_that_is_still_unreadable_is_the_same_letter(running: System) -> None:
    running.push(envelope("cards.explode", "again"))
    letter = running.letter("again")
    for _ in range(2):
        assert running.cli("dead-letters", "requeue", str(letter.id)).exit_code == 0
        assert running.letter("again").id == letter.id
    assert running.letter("again").body == letter.body


def test_a_requeued_message_is_answered_after_the_defect_is_repaired(running: System) -> None:
    defects.plant(running.engine)
    running.create("defect-mended")
    letter = _id(running, "defect-mended")
    defects.remove(running.engine)
    assert running.cli("dead-letters", "requeue", letter).exit_code == 0
    assert running.types("defect-mended") == ["card.created"]
    resolved = {each.message_id: each for each in running.letters(resolved=True)}
    assert resolved["defect-mended"].resolution == "requeued"


def part(name: str, **fields: Any) -> dict[str, Any]:
    return {"command": "cards.create", "command_id": name, **card(name, **fields)}


def test_a_requeued_part_of_a_list_is_done_alone(running: System) -> None:
    defects.plant(running.engine)
    listed = {"commands": [part("list-1"), part("defect-listed"), part("list-2")]}
    running.push(envelope("commands.apply", "defect-list", listed))
    letter = _id(running, "defect-list")
    assert running.rows()["cards"] == len(running.events_of("card.created"))
    defects.remove(running.engine)
    assert running.cli("dead-letters", "requeue", letter).exit_code == 0
    assert set(running.types("list-1", "defect-listed", "list-2")) == {"card.created"}


def test_a_requeued_message_that_was_done_is_not_done_again(running: System) -> None:
    running.create("done")
    running.answers("done")
    running.push(envelope("commands.apply", "half", {"commands": ["?", part("done")]}))
    letter = _id(running, "half:bad")
    before, letters = running.rows(), len(running.letters())
    assert running.cli("dead-letters", "requeue", letter).exit_code == 0
    running.catches_up("cards.bulk")
    running.catches_up()
    assert running.rows() == before
    # What can still not be read is the same letter again.
    assert (_id(running, "half:bad"), len(running.letters())) == (letter, letters)


def test_items_that_are_readable_when_requeued_are_answered(running: System) -> None:
    bad = {"commands": ["?", {"command": "cards.explode"}, part("good", account_id=None)]}
    running.push(
        envelope("commands.apply", "mended", {"commands": [part("well"), *bad["commands"]]})
    )
    letter = running.letter("mended:bad")
    assert running.types("well") == ["card.created"]
    # As a later version of the worker would read it.
    message = json.loads(letter.body)
    message[1]["commands"][2]["account_id"] = ACCOUNT
    mended = json.dumps(message).encode()
    running.sql("UPDATE dead_letters SET body = :body WHERE id = :id", body=mended, id=letter.id)
    assert running.cli("dead-letters", "requeue", str(letter.id)).exit_code == 0
    assert running.types("good") == ["card.created"]


def test_a_letter_whose_headers_are_cut_is_shown_and_not_requeued(running: System) -> None:
    message = envelope("cards.create", "cut", card("cut"), headers={"note": "x" * 70_000})
    running.push(message)
    letter = running.letter("cut")
    assert letter.headers is not None
    assert list(letter.headers) == ["cut"]
    assert len(json.dumps(letter.headers)) < 10_000
    (shown,) = running.cli_json("dead-letters", "show", str(letter.id))
    assert '"task":"cards.create"' in shown["headers"]["cut"]
    done = running.cli("dead-letters", "requeue", str(letter.id))
    assert done.exit_code == 1
    assert "too large to be read" in done.stderr
    assert running.letter("cut").resolved_at is None


def test_a_letter_is_settled_once(running: System) -> None:
    running.push(envelope("cards.explode", "settled"))
    letter = _id(running, "settled")
    assert running.cli("dead-letters", "drop", letter).exit_code == 0
    for how in ("drop", "requeue"):
        again = running.cli("dead-letters", how, letter)
        assert again.exit_code == 1
        assert f"no dead letter {letter} is waiting" in again.stderr
    listed = {each["id"]: each for each in running.cli_json("dead-letters", "list", "--resolved")}
    assert listed[int(letter)]["resolution"] == "dropped"
    assert int(letter) not in [each["id"] for each in running.cli_json("dead-letters", "list")]
    assert running.cli("dead-letters", "show", letter).exit_code == 0


def test_letters_with_a_reason_are_requeued_together(running: System) -> None:
    running.push(envelope("cards.explode", "all-1"))
    running.push(envelope("cards.explode", "all-2"))
    running.push(envelope("cards.create", "all-cut", card("cut"), headers={"note": "x" * 70_000}))
    running.push(envelope("cards.create", "all-other", card("other", account_id=None)))
    letters = [running.letter(name) for name in ("all-1", "all-2", "all-cut", "all-other")]
    counts = {each["reason"]: each for each in running.cli_json("dead-letters", "count")}
    assert counts["task_unknown"]["letters"] >= 2
    # As a later version of the worker would read them.
    running.sql(
        "UPDATE dead_letters SET headers = replace(headers, 'cards.explode', 'cards.expire')"
        " WHERE message_id LIKE 'all-%'"
    )
    since = ("--since", letters[0].received_at.isoformat())
    done = running.cli("dead-letters", "requeue", "--all", "--reason", "task_unknown", *since)
    assert (done.exit_code, done.stdout) == (0, "2 dead letters requeued, 0 not\n")
    resolved = {each.message_id: each.resolution for each in running.letters(resolved=True)}
    assert (resolved["all-1"], resolved["all-2"]) == ("requeued", "requeued")
    assert "all-other" not in resolved
    (listed,) = running.cli_json("dead-letters", "list", "--reason", "headers_too_large", *since)
    assert listed["message_id"] == "all-cut"
    done = running.cli("dead-letters", "requeue", "--all", "--reason", "headers_too_large")
    assert done.exit_code == 1
    assert f"dead letter {letters[2].id}: its headers are too large" in done.stderr


def test_requeue_takes_one_letter_or_all_of_a_kind(running: System) -> None:
    for arguments in ((), ("1", "--all"), ("1", "--task", "cards.create")):
        assert running.cli("dead-letters", "requeue", *arguments).exit_code == 2
    wrong = running.cli("dead-letters", "requeue", "--all", "--before", "yesterday")
    assert (wrong.exit_code, "--before: yesterday must be" in wrong.stderr) == (2, True)


def test_an_unknown_letter_is_refused(running: System) -> None:
    for how in ("show", "drop", "requeue"):
        assert running.cli("dead-letters", how, "987654").exit_code == 1
        assert running.cli("dead-letters", how, "x").exit_code == 2


def test_a_dropped_letter_that_comes_again_is_open_again(running: System) -> None:
    message = envelope("cards.explode", "dropped")
    running.push(message)
    letter = _id(running, "dropped")
    assert running.cli("dead-letters", "drop", letter).exit_code == 0
    running.push(message)
    assert _id(running, "dropped") == letter


def test_a_requeued_letter_has_only_its_answer_as_effect(running: System) -> None:
    assert {event["data"]["account_id"] for event in running.events()} <= {ACCOUNT, "T99999999"}
