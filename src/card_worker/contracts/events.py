"""Events: each command has one answer, a CloudEvent. A refusal is an answer too."""

from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import Field
from typing_extensions import TypedDict  # typing's own isn't enough for pydantic before 3.12

from card_worker.contracts.enums import (
    BatchState,
    EventType,
    Reason,
    Status,
)
from card_worker.contracts.fields import Time
from card_worker.contracts.json_text import write_json
from card_worker.contracts.views import (
    BatchCardView,
    BatchView,
    CardView,
    FileView,
    HoldView,
    Problem,
    RecallView,
    TokenView,
    TransactionView,
    documented,
)
from card_worker.money import Amount

SOURCE_PREFIX = "/card-worker/"
"""The `source` of an event begins with it; the account_id follows."""


class CommandInfo(TypedDict):
    """The fields that every answer repeats from its command."""

    # Texts below these fields would not be inherited.
    command: Annotated[str, Field(description="Name of the command.")]
    command_id: Annotated[str, Field(description="The command_id of the command.")]
    account_id: Annotated[str, Field(description="The account.")]
    dry_run: NotRequired[
        Annotated[Literal[True], Field(description="Only after a dry run: nothing was changed.")]
    ]


@documented
class CardData(CommandInfo):
    """`data` of the events `card.*`, `token.*` and `hold.*`."""

    card_id: str
    """The card."""
    version: int
    """The card's version after the event."""
    card: CardView
    """The card after the event."""
    transaction: TransactionView | None
    """The transaction that the event made; null: no money moved."""
    hold: NotRequired[HoldView]
    """The hold after the event; only in `hold.*`."""
    other_card_id: NotRequired[str]
    """The other card of a transfer or a replacement."""
    reason_text: NotRequired[str]
    """The `reason` of the command, in its answer."""
    token: NotRequired[TokenView]
    """The token that was created or revoked; only in `token.*`."""
    sealed: NotRequired[str]
    """The new token and PIN: JSON, encrypted with age for the recipients of `seal_to`."""


@documented
class BatchData(CommandInfo):
    """`data` of the events `batch.*`."""

    batch_id: str
    """The producer's id of the batch."""
    state: BatchState
    """State of the batch after the event."""
    requested: int
    """Number of cards that were ordered."""
    created: int
    """Number of cards that exist so far."""
    name: str | None
    """Name of the batch."""
    metadata: dict[str, Any] | None
    """The producer's own data."""
    created_by: str | None
    """Who ordered."""
    approved_by: str | None
    """Who approved the order."""
    card_id_pattern: NotRequired[str]
    """The pattern of the card_ids, if the order has one."""
    cards: NotRequired[tuple[BatchCardView, ...]]
    """The cards of a listed batch; only in `batch.completed`."""
    file: NotRequired[FileView | None]
    """The encrypted file with the cards and their secrets; after a recall, the file with the cards
    that were refused. Null: there is none."""
    pin_file: NotRequired[FileView]
    """The encrypted file with the PINs, if `seal_pins_to` was given."""
    reason_text: NotRequired[str]
    """The `reason` of the command."""
    reason: NotRequired[Reason]
    """Why the worker cancelled the order itself."""
    problems: NotRequired[tuple[Problem, ...]]
    """Why the worker cancelled the order itself, in detail."""
    recall: NotRequired[RecallView]
    """Progress of a command on the cards of the batch."""
    confirmed_by: NotRequired[str]
    """Who confirmed that the files have arrived."""


@documented
class RejectionData(CommandInfo):
    """`data` of the event `command.rejected`. The command changed nothing."""

    card_id: NotRequired[str]
    """The card that the command names, if it is known."""
    reason: Reason
    """Why the command was refused, for programs."""
    message: str
    """Why the command was refused, for people."""
    problems: NotRequired[tuple[Problem, ...]]
    """The invalid fields, or the cards concerned; at most 20."""
    key_id: NotRequired[str]
    """The key that signed the command, if it is refused by the rules for its sender. The refusal
    concerns only who sent it: another producer's command may have the same `command_id`."""
    status: NotRequired[Status]
    """Status of the card, if the command names it by `card_id`. Not for `invalid` and
    `idempotency_conflict`."""
    amount_available: NotRequired[Amount]
    """What could be spent; only for `exceeds_available`, if the command names the card by
    `card_id`."""
    amount_reserved: NotRequired[Amount]
    """What holds reserve; together with `amount_available`."""


@documented
class RepeatData(CommandInfo):
    """`data` of `command.repeated`: a command with the same `ref_id` was answered before, or the
    content of the first answer is no longer stored."""

    event: NotRequired[dict[str, Any]]
    """The first answer, complete as it was published. It may be a `command.rejected`. Absent: it is
    no longer stored."""
    event_id: NotRequired[UUID]
    """The `id` of the first answer, if that is no longer stored."""
    event_type: NotRequired[EventType]
    """The `type` of the first answer, if that is no longer stored. After `command.rejected` the
    command was not done."""


@documented
class Envelope(TypedDict):
    """An event: CloudEvents 1.0 in JSON."""

    specversion: Literal["1.0"]
    """Version of CloudEvents."""
    id: UUID
    """Id of the event. The answer to a command derives from its account and idempotency key, so an
    event that is published twice has the same id both times."""
    source: str
    """`/card-worker/` and the account_id."""
    type: EventType
    """What has happened."""
    subject: str
    """The card_id or batch_id. For a refusal its command_id, if the command names the card by a
    token, or neither card nor batch, or names a batch and has an invalid field."""
    time: Time
    """When it happened, in UTC, with milliseconds."""
    datacontenttype: Literal["application/json"]
    """Type of `data`."""
    partitionkey: str
    """The account_id, `/` and the subject. Events with the same key are published in order."""
    sequence: NotRequired[str]
    """The card's version as 20 digits. Absent for batches, refusals and dry runs."""
    correlationid: str
    """The command_id of the command."""
    answer: NotRequired[Literal[True]]
    """Present in the answer to the command, and absent in all other events that it leads to."""
    traceparent: NotRequired[str]
    """The span that sent the command: the header `traceparent` of its message, if that is valid W3C
    Trace Context. Absent in `command.repeated`
    and in events of a later commit, such as `batch.completed`."""
    tracestate: NotRequired[str]
    """The header `tracestate` of the message; only together with `traceparent`."""
    data: CardData | BatchData | RejectionData | RepeatData
    """The content, which depends on `type`."""


def is_pruned(event: str) -> bool:
    """Say whether the content of an event is no longer stored."""
    return not event.startswith('{"specversion"')


def write(view: Envelope | CardView | TransactionView | BatchView) -> str:
    """Return JSON as it is published, with the fields in the order in which they were given."""
    return write_json(view)
