"""The tables. Constraints refuse rows that only a defect of the rules could produce.

A table of a row class of the domain has a column for each field.
"""

from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.schema import SchemaItem

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.enums import EventType
from card_worker.domain import producers as producer_rows
from card_worker.domain import rows
from card_worker.domain.rows import Outcome
from card_worker.money import AMOUNT_MAX
from card_worker.storage.types import (
    EnumText,
    Flag,
    JsonLine,
    JsonText,
    Sortable,
    UtcTime,
    Uuid,
    WholeNumber,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

_TYPES: dict[Any, Any] = {
    **{str: Text, int: WholeNumber, bool: Flag, datetime: UtcTime, UUID: Uuid},
    **dict.fromkeys([dict, list, tuple], JsonText),
}


def _column(name: str, hint: Any) -> Column[Any]:
    """Return the column of a field: of the type of its values, NULL where they may be None."""
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    (kind,) = (get_origin(kind) or kind for kind in kinds if kind is not NoneType)
    type_ = EnumText(kind) if issubclass(kind, StrEnum) else _TYPES[kind]
    return Column(name, type_, nullable=len(kinds) > 1)


def _table(name: str, row: type[Any] | None, *items: SchemaItem) -> Table:
    """Return the table of a row class. `items` may define columns of its fields otherwise."""
    defined = {item.name for item in items if isinstance(item, Column)}
    fields = {} if row is None else get_type_hints(row)
    columns = [_column(field, hint) for field, hint in fields.items() if field not in defined]
    return Table(name, metadata, *columns, *items, sqlite_strict=True)


def _where(condition: str) -> dict[str, Any]:
    """Return the options of an index of only the rows for which `condition` is true."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


HOLD_IS_OPEN = "captured + released < amount"
FILE_IS_UNWRITTEN = "written_at IS NULL AND confirmed_at IS NULL"

cards = _table(
    "cards",
    rows.Card,
    # An order searches for the card_ids between its first and its last one.
    Column("card_id", Sortable, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("account_id", "card_id"),
    CheckConstraint("version >= 1", "version"),
    CheckConstraint(f"amount BETWEEN 0 AND {AMOUNT_MAX}", "amount"),
    CheckConstraint(f"amount_funds BETWEEN 0 AND {AMOUNT_MAX}", "funds"),
    CheckConstraint("amount_drawdown >= 0", "drawdown"),
    CheckConstraint("amount_pending >= 0", "pending"),
    CheckConstraint("amount_reserved BETWEEN 0 AND amount_balance", "reserved"),
    CheckConstraint("state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)", "inactive"),
    CheckConstraint("state = 'inactive' OR currency IS NOT NULL OR state = 'closed'", "currency"),
    # The cost of a sweep grows with the cards that are due, not with the table.
    Index("ix_cards_due", "expires_at", **_where("state = 'active' AND expires_at IS NOT NULL")),
    Index("ix_cards_replaced_by", "replaced_by", **_where("replaced_by IS NOT NULL")),
)

transactions = _table(
    "transactions",
    rows.Transaction,
    PrimaryKeyConstraint("id"),
    ForeignKeyConstraint(["card"], ["cards.id"]),
    UniqueConstraint("card", "version"),
    UniqueConstraint("account_id", "card", "ref_id"),
    # The captures, voids and refunds of a transaction.
    Index("ix_transactions_parent_id", "parent_id", **_where("parent_id IS NOT NULL")),
    CheckConstraint("amount > 0", "amount"),
    CheckConstraint("debit <> credit", "sides"),
    CheckConstraint(
        "balance_before >= 0 AND balance_after >= 0 AND balance_after - balance_before ="
        " CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END",
        "balance",
    ),
)

holds = _table(
    "holds",
    rows.Hold,
    PrimaryKeyConstraint("id"),
    ForeignKeyConstraint(["id"], ["transactions.id"]),
    ForeignKeyConstraint(["card"], ["cards.id"]),
    CheckConstraint("captured >= 0 AND released >= 0", "parts"),
    CheckConstraint("captured + released <= amount", "amount"),
    Index("ix_holds_card", "card", **_where(HOLD_IS_OPEN)),
    Index("ix_holds_due", "expires_at", **_where(f"expires_at IS NOT NULL AND {HOLD_IS_OPEN}")),
)

hold_is_open = holds.c.captured + holds.c.released < holds.c.amount

# Tokens and PINs have no foreign key to their card: it would take as long as writing the rows.
# `reconcile` checks that the cards exist.
tokens = _table(
    "tokens",
    rows.Token,
    PrimaryKeyConstraint("id"),
    UniqueConstraint("digest"),
    # Not of tokens that cards are created with: these have no reference.
    Index("uq_tokens_card_ref_id", "card", "ref_id", unique=True, **_where("ref_id IS NOT NULL")),
    Index("ix_tokens_card", "card", **_where("spent_at IS NULL AND revoked_at IS NULL")),
)

token_is_usable = tokens.c.spent_at.is_(None) & tokens.c.revoked_at.is_(None)

pins = _table("pins", rows.Pin, PrimaryKeyConstraint("id"))

pin_attempts = _table(
    "pin_attempts",
    rows.PinAttempt,
    PrimaryKeyConstraint("id"),
    Index("ix_pin_attempts_card_number", "card", "number"),
    Index("ix_pin_attempts_created_at", "created_at", **_where("outcome = 'cleared'")),
)

attempt_counts = pin_attempts.c.outcome != Outcome.CLEARED

# An account without rules of its own has no row.
accounts = _table(
    "accounts",
    rows.Account,
    PrimaryKeyConstraint("account_id"),
    CheckConstraint(f"load_max BETWEEN 0 AND {AMOUNT_MAX}", "load_max"),
    CheckConstraint(f"balance_max BETWEEN 0 AND {AMOUNT_MAX}", "balance_max"),
    CheckConstraint("reversal_window_s >= 0", "reversal_window_s"),
)

producers = _table("producers", producer_rows.ProducerKey, PrimaryKeyConstraint("key_id"))

batches = _table(
    "batches",
    rows.Batch,
    Column("pruned_jobs", WholeNumber, nullable=False, server_default="0"),
    PrimaryKeyConstraint("account_id", "batch_id"),
    CheckConstraint("created BETWEEN 0 AND requested", "created"),
    # Every command on a card searches for busy batches; these are few.
    Index("ix_batches_busy", "account_id", **_where("busy")),
)

jobs = _table(
    "jobs",
    rows.Job,
    PrimaryKeyConstraint("id"),
    CheckConstraint("open_chunks >= 0", "open_chunks"),
    Index("ix_jobs_unfinished", "last_activity_at", **_where("ended_at IS NULL")),
    Index("ix_jobs_of_batch", "account_id", "batch_id", **_where("ended_at IS NULL")),
    Index("ix_jobs_ended_at", "ended_at", **_where("ended_at IS NOT NULL")),
)

files = _table(
    "files",
    rows.File,
    Column("attempts", WholeNumber, nullable=False, server_default="0"),
    Column("next_attempt_at", UtcTime, nullable=True),
    PrimaryKeyConstraint("name"),
    Index("ix_files_batch", "account_id", "batch_id"),
    Index("ix_files_waiting", "created_at", **_where(FILE_IS_UNWRITTEN)),
)
file_is_unwritten = files.c.written_at.is_(None) & files.c.confirmed_at.is_(None)

# Deleted when the owner of the file confirms that it has arrived.
file_parts = _table("file_parts", rows.FilePart, PrimaryKeyConstraint("name", "number"))


# --- tables without a row class ------------------------------------------------------------------


def _required(name: str, type_: Any = Text, **options: Any) -> Column[Any]:
    return Column(name, type_, nullable=False, **options)


def _optional(name: str, type_: Any = Text) -> Column[Any]:
    return Column(name, type_, nullable=True)


# The card_ids of busy batches that have a list of cards and haven't created them yet.
reserved_card_ids = _table(
    "reserved_card_ids",
    None,
    _required("account_id"),
    _required("card_id", Sortable),
    _required("batch_id"),
    PrimaryKeyConstraint("account_id", "card_id"),
)

# The chunks of a job, and its end, from its start until it has ended.
chunks = _table(
    "chunks",
    None,
    _required("job", Uuid),
    _required("number", WholeNumber),
    _optional("done_at", UtcTime),
    # Until the file is sealed. The key is not in the database.
    _optional("encrypted_secrets"),
    # The cards that a recall refused, with the reasons.
    _optional("refused", JsonText),
    PrimaryKeyConstraint("job", "number"),
)

idempotency_keys = _table(
    "idempotency_keys",
    None,
    _required("account_id"),
    _required("key"),
    _required("digest"),
    # The answer is the event with this id in the outbox.
    _required("event_id", Uuid),
    _required("created_at", UtcTime),
    PrimaryKeyConstraint("account_id", "key"),
)

outbox = _table(
    "outbox",
    None,
    # Positions of a card's events rise with its versions: they are assigned under the card's lock.
    _required("position", WholeNumber, primary_key=True, autoincrement=True),
    _required("id", Uuid),
    _required("account_id"),
    _required("type", EnumText(EventType)),
    _required("subject"),
    _required("partition_key"),
    _required("event", JsonLine),
    _required("created_at", UtcTime),
    UniqueConstraint("id"),
)

# A row for each event that is not published. A trigger on the outbox inserts it; the relay deletes
# it. A column of the outbox would mean that each event is written twice.
unpublished = _table(
    "unpublished",
    None,
    _required("position", WholeNumber, primary_key=True, autoincrement=False),
    # It was published before, but not to this stream.
    Column("again", Flag, nullable=False, server_default=false()),
    Index("ix_unpublished_again", "position", **_where("again")),
)

# An answer that is to be published again, for the command that was sent again. The relay deletes
# the row, unless `mark` has changed since it read it.
repeats = _table(
    "repeats",
    None,
    _required("event_id", Uuid),
    _required("command_id"),
    _required("mark", WholeNumber),
    PrimaryKeyConstraint("event_id", "command_id"),
)

# One row. Triggers count a new version for each change of `producers` and `accounts`.
registry = _table(
    "registry",
    None,
    _required("id", WholeNumber, primary_key=True, autoincrement=False),
    _required("version", WholeNumber),
)

# What was loaded onto cards, by the producers that have a limit for it.
issued = _table(
    "issued",
    None,
    _required("producer"),
    _required("day"),
    _required("currency"),
    _required("amount", WholeNumber),
    PrimaryKeyConstraint("producer", "day", "currency"),
)

# The requests with a PIN or a short token that were decided in a window of ten minutes, by source:
# `producer/…`, or `account/…` for those that are not signed.
source_attempts = _table(
    "source_attempts",
    None,
    _required("began_at", UtcTime),
    _required("source"),
    _required("attempts", WholeNumber),
    _required("wrong", WholeNumber),
    _required("is_reported", Flag),
    PrimaryKeyConstraint("began_at", "source"),
)

# How many messages of unknown senders were stored as dead letters on a UTC day, and how many more
# were only counted.
unauthenticated = _table(
    "unauthenticated",
    None,
    _required("day"),
    _required("reason", EnumText(DeadLetterReason)),
    _required("stored", WholeNumber),
    _required("counted", WholeNumber),
    _required("bytes", WholeNumber),
    PrimaryKeyConstraint("day", "reason"),
)

# A message that has no id is recognised by its digest alone.
MESSAGE_ID_OR_EMPTY = text("coalesce(message_id, '')")

dead_letters = _table(
    "dead_letters",
    None,
    _required("id", WholeNumber, primary_key=True, autoincrement=True),
    _required("received_at", UtcTime),
    _optional("queue"),
    _optional("task"),
    _optional("message_id"),
    _required("reason", EnumText(DeadLetterReason)),
    # One short line; below it a line per reason, or a defect's traceback.
    _optional("detail"),
    _optional("headers", JsonText),
    _optional("content_type"),
    _optional("content_encoding"),
    _required("body", LargeBinary),
    _required("is_masked", Flag),
    _optional("sealed", LargeBinary),
    # Of headers and body: a message that arrives twice is one dead letter.
    _required("digest"),
    _optional("resolved_at", UtcTime),
    _optional("resolution"),
    # The key in Redis of an entry that was too large to be read; empty if it isn't stored.
    _optional("aside_key"),
    # The SHA-256 of what the message's signature covers.
    _optional("signature"),
    Index("uq_dead_letters_message_id_digest", MESSAGE_ID_OR_EMPTY, "digest", unique=True),
    Index("ix_dead_letters_signature", "signature", **_where("signature IS NOT NULL")),
    Index("ix_dead_letters_resolved_at", "resolved_at", **_where("resolved_at IS NOT NULL")),
)

starts = _table(
    "starts",
    None,
    # See `worker.messages.start_key`.
    _required("message_key", primary_key=True),
    _required("starts", WholeNumber),
    _required("started_at", UtcTime),
    # The known number of workers that had died of the message before its last start. NULL: that
    # start does not count.
    _optional("deaths", WholeNumber),
)

leases = _table(
    "leases",
    None,
    _required("name", primary_key=True),
    _required("holder"),
    _required("renewals", WholeNumber),
    _optional("position", WholeNumber),
)

# What is deleted when it is old. On PostgreSQL, workers delete nothing that is younger than the
# minimum.
retention = _table(
    "retention",
    None,
    # See `retention.Kind`.
    _required("name", primary_key=True),
    _required("minimum_s", WholeNumber),
    # Up to it, events have no content.
    _required("position", WholeNumber, server_default="0"),
)
