"""What makes two commands the same: their keys, their content, and the ids of their answers."""

from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts.commands import (
    COMMANDS,
    Asked,
    InvalidCommand,
    digest_of,
    event_id,
    key_of,
)
from card_worker.contracts.message import Letter, read_commands

ACCOUNT = "T00000001"
LOAD = {"card_id": "card-01", "amount": 500, "currency": "NOK"}
GOOD: dict[str, dict[str, Any]] = {
    "cards.create": LOAD,
    "cards.activate": LOAD,
    "cards.expire": {"card_id": "card-01"},
    "cards.batch_create": {"cards": [{"card_id": "card-01"}, {"card_id": "card-02"}]},
}
ALL = list(GOOD)
# A value of each field other than the one it has in GOOD, or than its default.
OTHER: dict[str, Any] = {
    "account_id": "P00000001",
    "not_after": "2030-01-01T00:00:00Z",
    "created_by": "kari",
    "originated_by": "till 7",
    "dry_run": True,
    "card_id": "card-02",
    "amount": 501,
    "currency": "SEK",
    "type": "credit_note",
    "customer_id": "customer",
    "name": "For Kari",
    "active_from": "2029-01-01T00:00:00Z",
    "expires_at": "2030-01-01T00:00:00Z",
    "metadata": {"a": 1},
    "cards": [{"card_id": "card-02"}, {"card_id": "card-01"}],
    "batch_id": "batch",
}


def read(task: str, **changed: Any) -> Asked | InvalidCommand:
    fields = {"account_id": ACCOUNT, "command_id": "c", **GOOD[task], **changed}
    (command,) = read_commands(task, "m", fields)
    assert not isinstance(command, Letter)
    return command


def accepted(task: str, **changed: Any) -> Asked:
    command = read(task, **changed)
    assert not isinstance(command, InvalidCommand), command.problems
    return command


@pytest.mark.parametrize("task", ALL)
def test_every_field_but_the_key_counts_as_content(task: str) -> None:
    first = digest_of(accepted(task))
    fields = set(COMMANDS[task].model_fields) & set(OTHER)
    digests = {field: digest_of(accepted(task, **{field: OTHER[field]})) for field in fields}
    assert len({first, *digests.values()}) == len(fields) + 1
    assert digest_of(accepted(task, command_id="other")) == first


@pytest.mark.parametrize("task", ALL)
def test_a_default_that_is_said_is_the_same_as_one_that_is_not(task: str) -> None:
    kind = COMMANDS[task]
    said = {
        name: field.default
        for name, field in kind.model_fields.items()
        if not field.is_required() and name != "command"
    }
    assert digest_of(accepted(task, **said)) == digest_of(accepted(task))


def test_the_same_card_asked_for_by_two_commands_is_not_the_same() -> None:
    assert digest_of(accepted("cards.create")) != digest_of(accepted("cards.activate"))


# A change here makes commands that were handled before an upgrade look new after it.
GOLDEN = {
    "cards.create": "bf34ffd6dc3acf21094eab7254a06f2808da5a736aa655c5e06cb543959abbab",
    "cards.activate": "208fc223b3d889098b104e0a4da433a693c5ad7e5792717c11b919c32de9f9ec",
    "cards.expire": "81cf12b7b8ef69d1eed7c313b2903dc09c4901d6e94086e0f959d2a83f83926b",
    "cards.batch_create": "2b3a4c947ff06ed637c0e642cfb9bce77113a7b3b2246aefbca427165f10b2c7",
}


@pytest.mark.parametrize("task", ALL)
def test_digests_stay_what_they_are(task: str) -> None:
    fields = {
        name: value
        for name, value in OTHER.items()
        if name in COMMANDS[task].model_fields and name not in GOOD[task]
    }
    assert digest_of(accepted(task, **fields)) == GOLDEN[task]


def test_keys_and_ids_stay_what_they_are() -> None:
    real, dry = accepted("cards.expire"), accepted("cards.expire", dry_run=True)
    invalid = read("cards.expire", card_id=5)
    assert [key_of(command) for command in (real, dry, invalid)] == ["id/c", "dry/c", "id/c"]
    assert event_id(ACCOUNT, "id/c") == UUID("ef1e3e86-0b9a-5570-84eb-cf58def18bde")


def test_a_wrong_command_is_the_same_only_as_itself() -> None:
    wrong = {"amount": "5", "name": "x"}
    first = digest_of(read("cards.create", **wrong))
    assert digest_of(read("cards.create", **dict(reversed(wrong.items())))) == first
    others = [
        read("cards.create", **{**wrong, "amount": "6"}),
        read("cards.create", amount="5"),
        read("cards.activate", **wrong),
    ]
    assert len({first, *map(digest_of, others)}) == 4


def test_metadata_is_the_same_in_whatever_order_its_keys_are_written() -> None:
    one = {"a": 1, "b": [{"c": 2, "d": {"e": 3, "f": 4}}]}
    two = {"b": [{"d": {"f": 4, "e": 3}, "c": 2}], "a": 1}
    first = digest_of(accepted("cards.create", metadata=one))
    assert digest_of(accepted("cards.create", metadata=two)) == first
    other = {"b": one["b"], "a": True}
    assert digest_of(accepted("cards.create", metadata=other)) != first


def test_a_time_is_the_same_in_whatever_zone_it_is_written() -> None:
    one = accepted("cards.expire", not_after="2030-01-01T00:00:00Z")
    two = accepted("cards.expire", not_after="2030-01-01T05:45:00.000+05:45")
    assert digest_of(one) == digest_of(two)
