"""From the fields of a task to commands and queries.

Unreadable is raised where there is no sender to answer: the message becomes a dead letter. It is
not raised for an invalid field: that makes an InvalidCommand, whose sender is answered.
"""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from card_worker.contracts.base import Request
from card_worker.contracts.batches import ABOUT_BATCHES, CreateBatch
from card_worker.contracts.commands import (
    APPLY,
    COMMANDS,
    COMMANDS_PER_MESSAGE_MAX,
    NOT_CONTENT,
    Command,
    InvalidCommand,
)
from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.envelope import NO_CONDITIONS, Conditions, quoted
from card_worker.contracts.fields import is_account_id
from card_worker.contracts.json_text import raw_json, write_json
from card_worker.contracts.patterns import CARD_ID_CHARS_MAX
from card_worker.contracts.queries import QUERIES, Query
from card_worker.contracts.text import cut, is_id, printable
from card_worker.contracts.views import PROBLEMS_MAX, Problem
from card_worker.secrets.masking import without_secrets
from card_worker.secrets.vault import Vault
from card_worker.wording import in_words

COMMAND_BYTES_MAX = 64 * 1024
FIELD_CHARS_MAX = 100
"""Longest name of a field that an answer repeats. A sender may have made it up."""
EXTRA_COST_MAX = 1_000
"""Largest extra cost of a list; see `extra_cost`."""
BATCH_COST = 100
REASONS_MAX = 20
"""Number of different reasons that are listed for a list that can't be read."""
NO_VAULT = Vault()

Kind = TypeVar("Kind", bound=Request)


@dataclass(frozen=True, slots=True)
class UnreadableItem:
    """An item of a list that is not readable as a command, as it was received."""

    reason: DeadLetterReason
    detail: str | None
    index: int
    """Its place in the list, from 0."""
    item: Any


class _All:
    def __contains__(self, _: object) -> bool:
        return True


ALL = _All()
"""Contains everything: signatures are required for all accounts."""


class SignedBy(NamedTuple):
    """Who has signed a message, and which accounts accept only signed commands."""

    producer: str | None = None
    required: Container[str] = ()

    def check(self, account_id: object) -> None:
        """Check that commands of the account may be sent like this. Raises Unreadable."""
        is_id = isinstance(account_id, str)
        if self.producer is None and (
            self.required is ALL or (is_id and account_id in self.required)
        ):
            raise Unreadable(DeadLetterReason.UNSIGNED)

    def complete(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a request, with the producer as who has created it."""
        if self.producer is None:
            return fields
        return {**fields, "created_by": self.producer, "producer": self.producer}


UNSIGNED = SignedBy()


class _Reading(NamedTuple):
    """What all commands of a message are read with."""

    vault: Vault
    conditions: Conditions
    signed_by: SignedBy

    def with_deadline(self, request: Kind) -> Kind:
        """Return a request whose `not_after` is not later than the deadline of its message."""
        deadline = self.conditions.deadline
        if deadline is None:
            return request
        earlier = min(deadline, request.not_after or deadline)
        return request.model_copy(update={"not_after": earlier})


def read_commands(
    task: str,
    message_id: str,
    kwargs: Mapping[str, Any],
    vault: Vault = NO_VAULT,
    conditions: Conditions = NO_CONDITIONS,
    *,
    signed_by: SignedBy = UNSIGNED,
) -> list[Command | UnreadableItem]:
    """Return the commands of a message in order; an UnreadableItem in place of what is none.

    With problems in the conditions, each is an InvalidCommand.

    Tokens and PINs in them are keyed by `vault`.

    A command without a `command_id` is known by `message_id`; one in a list must bring its own. Of
    a signed message, whose id is not signed, every command must.

    Raises Unreadable when nobody can be answered at all.
    """
    reading = _Reading(vault, conditions, signed_by)
    if task != APPLY:
        fields = {"command_id": message_id, **kwargs}
        return [_read(task, fields, reading, fallback_id=message_id)]
    commands = kwargs.get("commands")
    if set(kwargs) != {"commands"} or not isinstance(commands, list | tuple):
        raise Unreadable(DeadLetterReason.COMMAND_LIST_INVALID)
    if not 1 <= len(commands) <= COMMANDS_PER_MESSAGE_MAX:
        raise Unreadable(DeadLetterReason.COMMAND_LIST_INVALID, f"{len(commands)} items")
    read = list(_read_list(message_id, commands, reading))
    unreadable = [item for item in read if isinstance(item, UnreadableItem)]
    if len(unreadable) == len(read):
        detail = describe_items(unreadable, len(read))
        raise Unreadable(reason_of(unreadable), detail)
    return read


def reason_of(unreadable: Sequence[UnreadableItem]) -> DeadLetterReason:
    """Return the reason of the dead letter for items of a list."""
    reasons = {item.reason for item in unreadable}
    is_unsigned = DeadLetterReason.UNSIGNED in reasons
    return DeadLetterReason.UNSIGNED if is_unsigned else DeadLetterReason.ITEMS_UNREADABLE


def describe_items(unreadable: Sequence[UnreadableItem], items: int) -> str:
    """Return how many of a list's `items` are unreadable, and below it a line for each reason.

    Indexes are counted from 0.
    """
    indexes: dict[str, list[int]] = {}
    for item in unreadable:
        why = f"{item.reason} {item.detail or ''}".rstrip()
        indexes.setdefault(why, []).append(item.index)
    lines = [f"{_ranges(indexes[why])}: {why}" for why in list(indexes)[:REASONS_MAX]]
    if len(indexes) > REASONS_MAX:
        lines.append(f"and {len(indexes) - REASONS_MAX} other reasons")
    return "\n".join([f"{len(unreadable)} of {items}", *lines])


def _ranges(places: Sequence[int]) -> str:
    """Return numbers that rise as `0-3, 7`."""
    ranges: list[tuple[int, int]] = []
    for place in places:
        if ranges and ranges[-1][1] == place - 1:
            ranges[-1] = ranges[-1][0], place
        else:
            ranges.append((place, place))
    return ", ".join(f"{one}-{last}" if last > one else f"{one}" for one, last in ranges)


def cost_of(task: object, fields: Mapping[str, Any]) -> int:
    """Return how much work a message is for its commit: 1 for each command, and the extra cost."""
    if task != APPLY:
        return 1 + extra_cost(task, fields)
    commands = fields.get("commands")
    if not isinstance(commands, list | tuple):
        return 1
    named = [one for one in commands if isinstance(one, Mapping)]
    extra = sum(extra_cost(one.get("command"), one) for one in named)
    return len(commands) + min(extra, EXTRA_COST_MAX)


def extra_cost(task: object, fields: Mapping[str, Any]) -> int:
    """Return how much more than 1 a command costs.

    1 for each card that it lists. BATCH_COST for any other command about a batch: it may write a
    row for each chunk of the batch.
    """
    kind = COMMANDS.get(task) if isinstance(task, str) else None
    if kind is None or kind not in ABOUT_BATCHES:
        return 0
    cards = fields.get("cards")
    return min(len(cards), EXTRA_COST_MAX) if isinstance(cards, list | tuple) else BATCH_COST


def read_query(
    task: str,
    message_id: str,
    kwargs: Mapping[str, Any],
    vault: Vault = NO_VAULT,
    conditions: Conditions = NO_CONDITIONS,
    *,
    signed_by: SignedBy = UNSIGNED,
) -> Query | InvalidCommand:
    """Return the query that a message carries. Raises Unreadable when nobody can be answered."""
    fields = {"command_id": message_id, **kwargs}
    reading = _Reading(vault, conditions, signed_by)
    return _read_as(QUERIES[task], task, fields, reading, fallback_id=message_id)


def _read_list(
    message_id: str, commands: Sequence[Any], reading: _Reading
) -> Iterator[Command | UnreadableItem]:
    left = EXTRA_COST_MAX
    for place, part in enumerate(commands):
        try:
            # Room for ":999" within the 64 characters of an id.
            command, extra = _read_part(
                part, reading, left=left, fallback_id=f"{message_id[:60]}:{place}"
            )
        except Unreadable as problem:
            yield UnreadableItem(problem.reason, problem.detail, place, part)
        else:
            left -= extra
            yield command


def _read_part(
    part: object, reading: _Reading, *, left: int, fallback_id: str
) -> tuple[Command, int]:
    """Return the command that a part of a list is, and its extra cost, of which `left` is left."""
    if not isinstance(part, Mapping):
        raise Unreadable(DeadLetterReason.ITEM_NOT_AN_OBJECT)
    if reading.signed_by.producer is not None and not is_id(part.get("command_id")):
        raise Unreadable(DeadLetterReason.SIGNATURE_MALFORMED, "command_id is missing")
    task = part.get("command")
    fields = {name: value for name, value in part.items() if name != "command"}
    reading.signed_by.check(fields.get("account_id"))
    extra = extra_cost(task, fields)
    if extra <= left:
        return _read(task, fields, reading, fallback_id=fallback_id), extra
    message = (
        f"a list has at most {EXTRA_COST_MAX} listed cards;"
        f" any other command about a batch counts as {BATCH_COST} of them"
    )
    problem = Problem(field="", message=message)
    return _invalid(str(task), reading.signed_by.complete(fields), (problem,), fallback_id), 0


def _read(
    task: object, fields: Mapping[str, Any], reading: _Reading, *, fallback_id: str
) -> Command:
    kind = COMMANDS.get(task) if isinstance(task, str) else None
    if kind is None:
        raise Unreadable(DeadLetterReason.COMMAND_UNKNOWN, quoted(task, COMMANDS))
    return _read_as(kind, str(task), fields, reading, fallback_id=fallback_id)


def _read_as(
    kind: type[Kind], task: str, fields: Mapping[str, Any], reading: _Reading, *, fallback_id: str
) -> Kind | InvalidCommand:
    reading.signed_by.check(fields.get("account_id"))
    problems = reading.conditions.problems + _too_large(kind, fields)
    problems += tuple(
        Problem(field=name, message="is not a known field")
        for name in ("command", "producer")
        if name in fields
    )
    fields = reading.signed_by.complete(fields)
    if not problems:
        try:
            return reading.with_deadline(kind.model_validate(fields, context=reading.vault))
        except ValidationError as error:
            problems = tuple(islice(problems_of(error), PROBLEMS_MAX))
    return _invalid(task, fields, problems, fallback_id)


def _invalid(
    task: str, fields: Mapping[str, Any], problems: tuple[Problem, ...], fallback_id: str
) -> InvalidCommand:
    account_id, card_id = fields.get("account_id"), fields.get("card_id")
    if not is_account_id(account_id):
        first = problems[0]
        detail = f"{first.field}: {first.message}" if first.field else first.message
        raise Unreadable(DeadLetterReason.ACCOUNT_ID_INVALID, detail)
    command_id = fields.get("command_id")
    known = without_secrets(fields)
    content = {name: value for name, value in known.items() if name not in NOT_CONTENT}
    return InvalidCommand(
        command=task,
        account_id=account_id,
        command_id=command_id if is_id(command_id) else fallback_id,
        card_id=card_id if is_id(card_id, chars_max=CARD_ID_CHARS_MAX) else None,
        # A dry run that is refused must not use up the key of the real one either.
        dry_run=fields.get("dry_run") is True,
        problems=problems,
        received=hashlib.sha256(f"{task} {raw_json(content)}".encode()).hexdigest(),
    )


def _too_large(kind: type, fields: Mapping[str, Any]) -> tuple[Problem, ...]:
    if kind is CreateBatch:
        # A listed batch is a list by nature; the size of its message bounds that.
        fields = {name: value for name, value in fields.items() if name != "cards"}
    try:
        size = len(write_json(fields))
    except TypeError:  # a type that only a caller in this process can have given
        size = len(raw_json(fields))
    if size <= COMMAND_BYTES_MAX:
        return ()
    return (Problem(field="", message=f"a command has at most {COMMAND_BYTES_MAX} bytes"),)


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """Yield which fields of a command are wrong, and why; never their values."""
    # The input stays out of it: an answer is read by more people than the command was.
    found = error.errors(include_input=False, include_url=False)
    inside = {problem["loc"][:depth] for problem in found for depth in range(len(problem["loc"]))}
    for problem in found:
        # A list whose parts are all wrong is also called empty.
        if problem["loc"] not in inside:
            yield Problem(field=field_name(problem["loc"]), message=in_words(problem))


def field_name(path: Iterable[str | int]) -> str:
    """Return the name of a field as an answer repeats it."""
    return cut(printable(".".join(map(str, path))), FIELD_CHARS_MAX)
