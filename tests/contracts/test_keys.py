"""Keys: equal for two commands only when these are the same, whatever their senders write."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from card_worker.contracts import keys
from card_worker.contracts.base import InternalCommand
from card_worker.contracts.batches import LapseBatch
from card_worker.contracts.cards import MovesMoney, WithdrawCard
from card_worker.contracts.commands import COMMANDS, InvalidCommand
from card_worker.contracts.internal import (
    RecalledBlock,
    RecalledClose,
    RecalledUnblock,
    RecalledUpdate,
    SweptCard,
    SweptHold,
)
from card_worker.contracts.message import UnreadableItem, read_commands, read_query
from card_worker.contracts.queries import QUERIES
from card_worker.contracts.tokens import CreateToken
from card_worker.contracts.transactions import CreateTransaction
from tests.codes import VAULT
from tests.contracts.test_digests import GOOD

Key = tuple[Any, str]
"""What a key stands for, and the key."""

ACCOUNT = "T00000001"
OWN: tuple[type[InternalCommand], ...] = (
    *(RecalledBlock, RecalledClose, RecalledUnblock, RecalledUpdate),
    *(LapseBatch, SweptCard, SweptHold, WithdrawCard),
)
UUIDS = [UUID(int=7), UUID(int=8)]
NAMES = ["a", "b", "a/b", "b/a"]
OWN_IDS = ["lapse-b", f"expire-{UUIDS[0]}", f"expire-{UUIDS[0]}-2", f"{UUIDS[0].hex}-1"]
DIGESTS = ["0123456789abcdef" * 4, "fedcba9876543210" * 4]
SPACES: dict[Callable[..., str], tuple[list[Any], ...]] = {
    keys.by_id: (NAMES,),
    keys.on_card: (NAMES, NAMES),
    keys.by_transaction: (UUIDS, NAMES),
    keys.by_token: (NAMES, NAMES),
    keys.new_token: (NAMES, NAMES),
    keys.query: (sorted(QUERIES), NAMES),
    keys.internal: (OWN_IDS,),
    keys.conflict: (NAMES, DIGESTS),
    keys.refused: (DIGESTS, NAMES),
    keys.guard: (UUIDS,),
    keys.arrival: (UUIDS,),
    keys.release: (UUIDS,),
    keys.rest: (UUIDS,),
    keys.breakage: (UUIDS,),
    keys.repeat: (UUIDS, NAMES),
    keys.pruned: (UUIDS, NAMES),
    keys.of_job: (UUIDS, ["end", "left/1", "left/12", "cancelled"]),
    keys.confirmation: (NAMES,),
}
WRITTEN = [space(*values) for space, given in SPACES.items() for values in product(*given)]
WRITTEN += [keys.dry(key) for key in WRITTEN]
# What a hostile sender calls something: as a key is written, or what stands behind its beginning.
HOSTILE = [*NAMES, *WRITTEN, *(key.partition("/")[2] for key in WRITTEN)]
IDS = [id for id in dict.fromkeys(HOSTILE) if len(id) <= 64]


def of_command(task: str, fields: dict[str, Any]) -> Key:
    (command,) = read_commands(task, "m", {"account_id": ACCOUNT, **GOOD[task], **fields}, VAULT)
    assert not isinstance(command, UnreadableItem)
    what: tuple[Any, ...] = ("id", command.command_id)
    if isinstance(command, CreateTransaction) and command.given_token is not None:
        what = ("by token", command.given_token.fingerprint, command.ref_id)
    elif isinstance(command, MovesMoney):
        about = getattr(command, "card_id", None) or getattr(command, "transaction_id", None)
        what = ("moves", about, command.ref_id)
    elif isinstance(command, CreateToken):
        what = ("token", command.card_id, command.ref_id)
    return (command.dry_run, *what), command.key


def of_commands() -> Iterator[Key]:
    """Yield the keys of every command, with everything that a sender chooses."""
    referring = {task for task in COMMANDS if "ref_id" in GOOD[task]}
    named = [*product(IDS, NAMES), *product(NAMES, IDS)]
    for is_dry in (False, True):
        for task, command_id in product(COMMANDS, IDS):
            fields = {"command_id": command_id, "dry_run": is_dry}
            if task not in referring:
                yield of_command(task, fields)
            yield of_command(task, fields | {"unknown": 1})  # so that it is invalid
        for task, (name, ref_id) in product(referring, named):
            fields = {"ref_id": ref_id, "dry_run": is_dry}
            if "card_id" in GOOD[task]:
                yield of_command(task, fields | {"card_id": name})
            else:
                yield of_command(task, fields | {"transaction_id": UUIDS[len(name) % 2]})
            if task == "transactions.create":
                yield of_command(task, fields | {"card_id": None, "token": name})


ABOUT = {"batches.get": {"batch_id": "b"}, "cards.list": {"batch_id": "b"}}


def of_queries() -> Iterator[Key]:
    for task, id in product(QUERIES, IDS):
        about = ABOUT.get(task, {"card_id": "c"})
        query = read_query(task, id, {"account_id": ACCOUNT, **about})
        assert not isinstance(query, InvalidCommand)
        yield ("query", task, id), query.key


def of_workers() -> Iterator[Key]:
    """Yield the keys of what workers ask for themselves, and of what nobody asks for."""
    for kind, id in product(OWN, OWN_IDS):
        yield ("own", id), kind.model_construct(account_id=ACCOUNT, command_id=id).key
    mine = list(SPACES)[list(SPACES).index(keys.conflict) :]
    for space in mine:
        for values in product(*SPACES[space]):
            yield (space, *values), space(*values)


def test_two_keys_are_equal_only_when_they_stand_for_the_same() -> None:
    by_key: dict[str, Any] = {}
    stands_for = set()
    for what, key in (*of_commands(), *of_queries(), *of_workers()):
        assert by_key.setdefault(key, what) == what, key
        stands_for.add(what)
    assert len(stands_for) == len(by_key) > 5_000


def test_every_space_of_keys_is_looked_at() -> None:
    public = {one for one in vars(keys).values() if getattr(one, "__module__", "") == keys.__name__}
    assert public == {*SPACES, keys.dry}


@pytest.mark.parametrize(
    ("task", "fields", "command_id"),
    [
        ("transactions.create", {"ref_id": "r1"}, "ref/7/card-01/r1"),
        ("transactions.void", {"transaction_id": UUIDS[0], "ref_id": "r"}, f"ref/{UUIDS[0]}/r"),
        ("tokens.create", {"ref_id": "r1"}, "token/7/card-01/r1"),
        ("cards.expire", {"command_id": "x"}, "id/x"),
    ],
)
def test_a_dry_run_has_the_key_of_no_other_dry_run(
    task: str, fields: dict[str, Any], command_id: str
) -> None:
    _, key = of_command(task, {**fields, "dry_run": True})
    _, other = of_command("cards.block", {"command_id": command_id, "dry_run": True})
    assert key != other


def test_no_message_leads_to_a_command_of_our_own() -> None:
    kinds = (*COMMANDS.values(), *QUERIES.values())
    assert not [kind for kind in kinds if InternalCommand in kind.__mro__]
    assert set(OWN) == set(InternalCommand.__subclasses__())
