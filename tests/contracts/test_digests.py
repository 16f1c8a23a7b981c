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
    "seal_to": ["age17v954p0yzl752986h5aa9jtp5q5mcdpg3tg6saexnh48ruztya9s7w64nl"],
}


def other(task: str) -> dict[str, Any]:
    """Return another value for each field of a command."""
    values = {name: value for name, value in OTHER.items() if name in COMMANDS[task].model_fields}
    if task == "transactions.create":
        del values["type"]  # what is pending has but one
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
def test_every_field_but_the_key_counts_as_content(task: str) -> None:
    first = digest_of(accepted(task))
    digests = {
        field: digest_of(accepted(task, **{field: value})) for field, value in other(task).items()
    }
    assert len({first, *digests.values()}) == len(digests) + 1
    assert digest_of(accepted(task, command_id="other")) == first


@pytest.mark.parametrize("task", [task for task in ALL if task != "cards.update"])
def test_a_default_that_is_said_is_the_same_as_one_that_is_not(task: str) -> None:
    kind = COMMANDS[task]
    said = {
        name: field.default
        for name, field in kind.model_fields.items()
        if not field.is_required() and name not in {"command", *GOOD[task]}
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
    "cards.create": "bf34ffd6dc3acf21094eab7254a06f2808da5a736aa655c5e06cb543959abbab",
    "cards.activate": "208fc223b3d889098b104e0a4da433a693c5ad7e5792717c11b919c32de9f9ec",
    "cards.expire": "81cf12b7b8ef69d1eed7c313b2903dc09c4901d6e94086e0f959d2a83f83926b",
    "cards.batch_create": "2b3a4c947ff06ed637c0e642cfb9bce77113a7b3b2246aefbca427165f10b2c7",
    "cards.reverse_activation": "4424ed56d4f0945be23ae7bda4d062dbbd14ec6256a69268e7b47f7087a3c83b",
    "cards.update": "9898ee8076dc666a456e55fc492a659587f923e20712121e56271a595c3e9e3f",
    "cards.block": "1ab463be43c347b331b0d3f4421892436472533fe367c0764521c1fb1ca5d6a1",
    "cards.unblock": "7faeb60d223f235a88716ae1e94c3c53cbe35f9561cdfdb493094ea76972301d",
    "cards.close": "245a6a5dca62ac6d2c3a6052753374f88458859d6e16d98412fe84fe78a6b774",
    "cards.replace": "ed0be8a8cbdda26aeb9ebbea6522a9d967490f51a548adb3cf18699b9b521365",
    "cards.transfer": "a7de8b7de4a20837f8a9bdaa7984ac97f115dc66e30e92a5a5e43134c3659c2f",
    "cards.adjust": "fe15225b26af99fd491355140ae089f5acc3eda2f45ae02671e6eb22d0271c36",
    "transactions.create": "e0c6a4dd75af0d66ebbcc637a96d22fda8c2623834eff27cc9f2e3bcd80c276e",
    "transactions.capture": "3490bb1fae9e5119399fcca9b88a5282ed726f9b5718a4156fdc223d8306368b",
    "transactions.void": "e30f2ad641f1c1b16741007431be8f87cbedbdfd97b9812a46e584632922c2e2",
    "transactions.refund": "982f01dad05def0c637a1934bf593ad025e058e6ca6efbfb331faa4f25677f41",
    "holds.expire": "3816673666db5e6dd2971bb34d17b1094629c226edb74110845136c60a496bd9",
}
FIRST = frozenset(GOLDEN.values())
LATER = frozenset(["card_token", "pin", "options", "seal_to", "needs_approval"])
"""Fields that the first commands didn't have. Who leaves them out asks what was asked then."""
GOLDEN |= {
    "tokens.create": "8a301f2fd75d193c6def0bff405eb0ab4b5021a0ae75670c524058f94399fc54",
    "tokens.revoke": "05a0edf8c0c0a0644cc2020ab6823153c68eca1e67435778c286893804c97e6f",
    "cards.rotate_pin": "09c70ce6e98bb65babbe0144d037e487c9c24ec0aec729522093d1e368b6b7de",
    "batches.approve": "749b2f6eb3a4c1fd25b5d70ddc23b028891ccfaf9c5b622e8d21aa4ea21c5b38",
    "batches.cancel": "b135ce4fcc46f883c634d80031efe8d7fbc6a28f7f18faae473acac32a26546e",
    "batches.block": "868591dbec4dd367824dc79a86c157f211da51c0bc8af4938f2b2a2c53336ea9",
    "batches.unblock": "f25d5f2bd98af67ecb2dfbac5d4a2d78fdc1772e45b45226f9abe0119c3eb4f2",
    "batches.close": "0570a5e1c967a7ac12aef41d23ea17b01c0d8d5252edc6ed9c0cd65c32c07340",
    "batches.extend": "f7cf82a73947f92df8b71cc0e49aa15190af7a555821beee86e2fdad57b24bb8",
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
