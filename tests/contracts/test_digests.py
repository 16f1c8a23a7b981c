"""What makes two commands the same: their keys, their content, and the ids of their answers."""

from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts.cards import WithdrawCard
from card_worker.contracts.commands import (
    COMMANDS,
    Command,
    InvalidCommand,
    ProducerCommand,
    digest_of,
    event_id,
)
from card_worker.contracts.message import UnreadableItem, read_commands
from tests.codes import VAULT

ACCOUNT = "T00000001"
LOAD = {"card_id": "card-01", "amount": 500, "currency": "NOK"}
GOOD: dict[str, dict[str, Any]] = {
    "cards.create": LOAD,
    "cards.activate": LOAD,
    "cards.expire": {"card_id": "card-01"},
    "cards.batch_create": {"cards": [{"card_id": "card-01"}, {"card_id": "card-02"}]},
}
REF = {"ref_id": "ref-1"}
BY_TRANSACTION = {"transaction_id": "8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e"}
GOOD |= {
    "cards.reverse_activation": {"card_id": "card-01"},
    "cards.update": {"card_id": "card-01", "name": "For Ola"},
    "cards.block": {"card_id": "card-01", "reason": "lost"},
    "cards.unblock": {"card_id": "card-01", "reason": "found"},
    "cards.close": {"card_id": "card-01", "reason": "paid out"},
    "cards.replace": {"card_id": "card-01", "new_card_id": "card-03", "reason": "worn"},
    "cards.transfer": {"card_id": "card-01", "to_card_id": "card-03", **REF},
    "cards.adjust": {**LOAD, **REF, "reason": "mistake"},
    "transactions.create": {**LOAD, **REF, "pending": True},
    "transactions.capture": BY_TRANSACTION | REF,
    "transactions.void": BY_TRANSACTION | REF,
    "transactions.refund": BY_TRANSACTION | REF,
    "holds.expire": BY_TRANSACTION,
    "tokens.create": {"card_id": "card-01", **REF, "expires_in": 60},
    "tokens.revoke": {"card_id": "card-01", "token_id": BY_TRANSACTION["transaction_id"]},
    "cards.rotate_pin": {"card_id": "card-01", "pin": {}},
    "batches.approve": {"batch_id": "batch-1"},
    "batches.cancel": {"batch_id": "batch-1"},
    "batches.block": {"batch_id": "batch-1", "reason": "lost", "last": 9},
    "batches.unblock": {"batch_id": "batch-1", "reason": "found"},
    "batches.close": {"batch_id": "batch-1", "reason": "recall"},
    "batches.extend": {"batch_id": "batch-1", "expires_at": "2031-01-01T00:00:00Z"},
}
ALL = list(GOOD)
# A value of each field other than the one it has in GOOD, or than its default.
OTHER: dict[str, Any] = {
    "account_id": "P00000001",
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
    "reason": "stolen",
    "ref_id": "ref-2",
    "new_card_id": "card-04",
    "to_card_id": "card-04",
    "pending": False,
    "hold_expires_in": 60,
    "transaction_id": "00000000-7f0f-5f57-9d5b-0d4f6c1f5a5e",
    "token_id": "00000000-7f0f-5f57-9d5b-0d4f6c1f5a5e",
    "expires_in": 61,
    "expires_after_transaction": False,
    "format": {"numbers": True},
    "card_token": {"expires_in": 5},
    "pin": {"format": {"numbers": True}},
    "options": {"pin": {}},
    "first": 2,
    "last": 8,
    "needs_approval": True,
    "funding": "promotional",
    "final": True,
    "seal_to": ["age17v954p0yzl752986h5aa9jtp5q5mcdpg3tg6saexnh48ruztya9s7w64nl"],
}


def other(task: str) -> dict[str, Any]:
    """Return another value for each field of a command."""
    values = {name: value for name, value in OTHER.items() if name in COMMANDS[task].model_fields}
    if task == "transactions.create":
        del values["type"], values["funding"]  # what is pending has but one
        del values["pin"]  # nobody is told whether it is another one
    return values


def read(task: str, **changed: Any) -> Command:
    fields = {"account_id": ACCOUNT, "command_id": "c", **GOOD[task], **changed}
    (command,) = read_commands(task, "m", fields, VAULT)
    assert not isinstance(command, UnreadableItem)
    return command


def accepted(task: str, **changed: Any) -> ProducerCommand:
    command = read(task, **changed)
    assert not isinstance(command, InvalidCommand), command.problems
    assert not isinstance(command, WithdrawCard)
    return command


@pytest.mark.parametrize("task", ALL)
def test_every_field_but_key_and_deadline_counts_as_content(task: str) -> None:
    first = digest_of(accepted(task))
    digests = {
        field: digest_of(accepted(task, **{field: value})) for field, value in other(task).items()
    }
    assert len({first, *digests.values()}) == len(digests) + 1
    again = {"command_id": "other", "not_after": "2030-01-01T00:00:00Z"}
    assert digest_of(accepted(task, **again)) == first


@pytest.mark.parametrize("task", [task for task in ALL if task != "cards.update"])
def test_a_default_that_is_said_is_the_same_as_one_that_is_not(task: str) -> None:
    kind = COMMANDS[task]
    said = {
        name: field.default
        for name, field in kind.model_fields.items()
        if not field.is_required() and name not in {"command", "producer", *GOOD[task]}
    }
    assert digest_of(accepted(task, **said)) == digest_of(accepted(task))


def test_a_pin_does_not_count_as_content() -> None:
    fields = {"card_id": None, "token": "DINCARD:1", "pin": "1234"}
    one, two = (accepted("transactions.create", **fields | {"pin": pin}) for pin in ("1", "2"))
    assert digest_of(one) == digest_of(two)
    other = accepted("transactions.create", **fields | {"token": "DINCARD:2"})
    assert digest_of(one) == digest_of(other)
    assert one.key == two.key != other.key
    assert "DINCARD" not in one.key


def test_a_wrong_command_is_known_without_its_secrets() -> None:
    wrong = {"card_id": "c", "token": "DINCARD:1", "pin": "1234"}
    first = digest_of(read("transactions.create", **wrong))
    assert digest_of(read("transactions.create", **wrong | {"token": "DINCARD:2"})) == first
    assert digest_of(read("transactions.create", **wrong | {"pin": "1235"})) == first
    assert digest_of(read("transactions.create", **wrong | {"amount": 501})) != first


def test_every_command_is_looked_at() -> None:
    assert set(ALL) == set(COMMANDS)


def test_null_in_an_update_says_something() -> None:
    some = {"customer_id": "c"}
    assert digest_of(accepted("cards.update", **some)) != digest_of(
        accepted("cards.update", **some, metadata=None)
    )


def test_a_reference_is_the_key_whatever_the_command_id() -> None:
    create, capture = accepted("transactions.create"), accepted("transactions.capture")
    assert create.key == "ref/7/card-01/ref-1"
    assert capture.key == "ref/8d1b8c4c-7f0f-5f57-9d5b-0d4f6c1f5a5e/ref-1"
    assert accepted("transactions.create", command_id="x").key == create.key
    assert accepted("transactions.create", dry_run=True).key == f"dry/{create.key}"
    assert (
        accepted("transactions.create", card_id="c", ref_id="1/c/1").key
        != accepted("transactions.create", card_id="c/1/c", ref_id="1").key
    )


def test_the_same_card_asked_for_by_two_commands_is_not_the_same() -> None:
    assert digest_of(accepted("cards.create")) != digest_of(accepted("cards.activate"))


# A change here makes commands that were handled before an upgrade look new after it.
GOLDEN = {
    "cards.create": "c34b82cff6f4cb8e599cbff788920a8933a782cff097b1970f3fd84ee3fa3da4",
    "cards.activate": "c576471c84415225f9895baf0a9c69d880a871899f3f33deee8a3e7741ca1758",
    "cards.expire": "5de20ff23b2b7fab63b5ad133917afb4a0f773550ee75e5d8aff3f4edd09d3d5",
    "cards.batch_create": "6eb8094a4fedc0d2f31e0a386457908addd3a8988a3ee3fab1587d9b939c840b",
    "cards.reverse_activation": "bae57c8ace8ad7c163b4e5213eaa6233fa38ffea5dbbd0121f9c32b0cd43fec6",
    "cards.update": "389e19a9c5020435fd3025f24a62ede9006a680df678ef635493b2040235f147",
    "cards.block": "c751ccbb52ba0ba2a43fa6efc20b4f02cb82b18c9875d65ced543d3c4983eae7",
    "cards.unblock": "cbca2fdfa79465c823561c68315ca4cc6844e4384d533b22f294fe8521bc74c9",
    "cards.close": "42543a8633350b8718e5d0526908762de67eb91aaafe3d003e93c9b17d331bf3",
    "cards.replace": "2a2eaf3bd5bbd6d116c67c8c1a76fab7b3d2d629041ea4fafeae89b600881dc3",
    "cards.transfer": "0b8c083e69ae627539b759abcf25e3aa70c44635e8e57f7baf05616230d24160",
    "cards.adjust": "f084cd986b0d38afe0e36f7ce6eae0913f9b8fb5160798400289c07b5c4558c8",
    "transactions.create": "b4023778630af013c697a27d1c351f37964240ae6633551355359ec93e6736a3",
    "transactions.capture": "6f127faf77f6e3ca27c12412ae6d519543d0fa33d9e8f0ad196df6a6204d217d",
    "transactions.void": "c8fb6a3e4622c6f0d50215a34f68ff12c1d3c6a66954238292afcc38e1cca15b",
    "transactions.refund": "80952964986a0e6acd64221935b3c2c3eaa5c0e53002921f061b443fc8773829",
    "holds.expire": "ac8564adbf79159669e063e89105e91f14d4934e7f8c9874493ddeff5fc6d162",
}
FIRST = frozenset(GOLDEN.values())
LATER = frozenset(["card_token", "pin", "options", "seal_to", "needs_approval", "funding", "final"])
"""Fields that the first commands didn't have. Who leaves them out asks what was asked then."""
GOLDEN |= {
    "tokens.create": "e49127e06a8c8a83d19b2eaf8d4c11081687fa4737a41ed67b0df6e4111e2011",
    "tokens.revoke": "578b1153661a510d6490300b73681041329f4a809bf7642039a0c7d7a7686b39",
    "cards.rotate_pin": "0511eb1fa0ea35ba1ba042a1b8cef71c60395d10b74ee7860c59a5db8601fb66",
    "batches.approve": "c264820aa279d20a356520a1b1fa866a50c49339a74ad94ee035fc390a006f77",
    "batches.cancel": "e2bdcb09cf51af395fe70b851ed51090709f1494e9e50c2a115026ad4420b59f",
    "batches.block": "feef33fc66f4cb0b254ed2b605d03102fb1fc2cc84967c59f1d61d89f8251056",
    "batches.unblock": "77650b4180bd2c2b2888b2301e2e9cf5a6ae802ad99988c9d1911ffd7b6db74c",
    "batches.close": "f60abe54724fa88f9cc2f575a23c28e1ca4e6a69750be5f99bbda40c1ee014a2",
    "batches.extend": "cc687870bc4eb5f9fb46f4c0131adcb07654f6644a5c49038d47d831982b1711",
}


@pytest.mark.parametrize("task", ALL)
def test_digests_stay_what_they_are(task: str) -> None:
    left = {*GOOD[task], *LATER} if GOLDEN[task] in FIRST else {*GOOD[task]}
    fields = {name: value for name, value in other(task).items() if name not in left}
    assert digest_of(accepted(task, **fields)) == GOLDEN[task]


def test_keys_and_ids_stay_what_they_are() -> None:
    real, dry = accepted("cards.expire"), accepted("cards.expire", dry_run=True)
    invalid = read("cards.expire", card_id=5)
    assert [command.key for command in (real, dry, invalid)] == ["id/c", "dry/id/c", "id/c"]
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


def test_a_wrong_command_with_another_deadline_is_the_same() -> None:
    digests = {
        digest_of(read("cards.create", amount="5", **deadline))
        for deadline in ({}, {"not_after": None}, {"not_after": "2030-01-01T00:00:00Z"})
    }
    assert len(digests) == 1


def test_metadata_is_the_same_in_whatever_order_its_keys_are_written() -> None:
    one = {"a": 1, "b": [{"c": 2, "d": {"e": 3, "f": 4}}]}
    two = {"b": [{"d": {"f": 4, "e": 3}, "c": 2}], "a": 1}
    first = digest_of(accepted("cards.create", metadata=one))
    assert digest_of(accepted("cards.create", metadata=two)) == first
    other = {"b": one["b"], "a": True}
    assert digest_of(accepted("cards.create", metadata=other)) != first


def test_a_time_is_the_same_in_whatever_zone_it_is_written() -> None:
    one = accepted("cards.create", expires_at="2030-01-01T00:00:00Z")
    two = accepted("cards.create", expires_at="2030-01-01T05:45:00.000+05:45")
    assert digest_of(one) == digest_of(two)
