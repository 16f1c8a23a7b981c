"""The tables. Rules live in the domain; constraints here refuse what would be a bug there."""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from card_worker.contracts.enums import (
    Action,
    BatchState,
    CardType,
    EventType,
    Expiry,
    Side,
    TransactionType,
)
from card_worker.domain.rows import Holds, Outcome, State
from card_worker.money import AMOUNT_MAX, Currency
from card_worker.storage.types import (
    Flag,
    JsonLine,
    JsonText,
    OneOf,
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


def _words(name: str, words: type[Any], *, nullable: bool = False) -> Column[Any]:
    return Column(name, OneOf(words), nullable=nullable)


def _amount(name: str) -> Column[Any]:
    return Column(name, WholeNumber, nullable=False)


def _optional(name: str) -> Column[Any]:
    return Column(name, Text, nullable=True)


def _where(condition: str) -> dict[str, Any]:
    """Return what makes an index hold only the rows for which `condition` is true."""
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


# What has no id, because it is no message, is the same letter when it comes again, too.
LETTER_ID = text("coalesce(message_id, '')")
TOKEN_IS_LEFT = "spent_at IS NULL AND revoked_at IS NULL"
FILE_WAITS = "written_at IS NULL AND confirmed_at IS NULL"
HOLD_IS_OPEN = "captured + released < amount"

cards = Table(
    "cards",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    # The names of an order are looked for between its first and its last one.
    Column("card_id", Sortable, nullable=False),
    _words("type", CardType),
    _words("state", State),
    Column("blocked", Flag, nullable=False),
    _words("currency", Currency, nullable=True),
    _amount("amount"),
    _optional("customer_id"),
    _optional("name"),
    _optional("originated_by"),
    Column("metadata", JsonText, nullable=True),
    Column("active_from", UtcTime, nullable=True),
    Column("activated_at", UtcTime, nullable=True),
    Column("expires_at", UtcTime, nullable=True),
    _optional("batch_id"),
    Column("created_at", UtcTime, nullable=False),
    _optional("created_by"),
    Column("version", WholeNumber, nullable=False),
    _amount("amount_funds"),
    _amount("amount_drawdown"),
    _amount("amount_balance"),
    _amount("amount_pending"),
    _amount("amount_reserved"),
    Column("has_codes", Flag, nullable=False),
    # Of its last event, before which nothing happens to it, whatever a clock says.
    Column("changed_at", UtcTime, nullable=True),
    UniqueConstraint("account_id", "card_id"),
    CheckConstraint("version >= 1", "version"),
    CheckConstraint(f"amount BETWEEN 0 AND {AMOUNT_MAX}", "amount"),
    CheckConstraint(f"amount_funds BETWEEN 0 AND {AMOUNT_MAX}", "funds"),
    CheckConstraint("amount_drawdown >= 0", "drawdown"),
    CheckConstraint("amount_pending >= 0", "pending"),
    CheckConstraint("amount_reserved BETWEEN 0 AND amount_balance", "reserved"),
    CheckConstraint("state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)", "inactive"),
    CheckConstraint("state = 'inactive' OR currency IS NOT NULL OR state = 'closed'", "currency"),
    # What the sweep looks for; its cost grows with what is due, not with the table.
    Index("ix_cards_due", "expires_at", **_where("state = 'active' AND expires_at IS NOT NULL")),
    sqlite_strict=True,
)

transactions = Table(
    "transactions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("card", Uuid, ForeignKey("cards.id"), nullable=False),
    _words("type", TransactionType),
    _amount("amount"),
    _words("currency", Currency),
    _words("debit", Side),
    _words("credit", Side),
    _optional("ref_id"),
    Column("parent_id", Uuid, nullable=True),
    Column("metadata", JsonText, nullable=True),
    _optional("originated_by"),
    Column("created_at", UtcTime, nullable=False),
    _optional("created_by"),
    _amount("balance_before"),
    _amount("balance_after"),
    Column("version", WholeNumber, nullable=False),
    UniqueConstraint("card", "version"),
    UniqueConstraint("account_id", "card", "ref_id"),
    # What was captured, voided or refunded of a transaction.
    Index("ix_transactions_parent_id", "parent_id", **_where("parent_id IS NOT NULL")),
    CheckConstraint("amount > 0", "amount"),
    CheckConstraint("debit <> credit", "sides"),
    # Each row proves its neighbour: what came in or went out is the difference it left.
    CheckConstraint(
        "balance_before >= 0 AND balance_after >= 0 AND balance_after - balance_before ="
        " CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END",
        "balance",
    ),
    sqlite_strict=True,
)

# What pending transactions lock; each row has the id of its transaction.
holds = Table(
    "holds",
    metadata,
    Column("id", Uuid, ForeignKey("transactions.id"), primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("card", Uuid, ForeignKey("cards.id"), nullable=False),
    _amount("amount"),
    _amount("captured"),
    _amount("released"),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=True),
    CheckConstraint("captured >= 0 AND released >= 0", "parts"),
    CheckConstraint("captured + released <= amount", "amount"),
    Index("ix_holds_card", "card", **_where(HOLD_IS_OPEN)),
    Index("ix_holds_due", "expires_at", **_where(f"expires_at IS NOT NULL AND {HOLD_IS_OPEN}")),
    sqlite_strict=True,
)

# What is kept of tokens: never their values. The digest covers the account. That each has its card
# no foreign key looks after, here and with PINs: asking for it would take as long as writing them.
# `reconcile` does.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("card", Uuid, nullable=False),
    Column("kid", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("masked_code", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    _optional("ref_id"),
    Column("format", JsonText, nullable=True),
    Column("expires_at", UtcTime, nullable=True),
    Column("expires_after_transaction", Flag, nullable=False),
    Column("metadata", JsonText, nullable=True),
    Column("spent_at", UtcTime, nullable=True),
    Column("revoked_at", UtcTime, nullable=True),
    UniqueConstraint("digest"),
    # Tokens that cards are made with have no reference, and aren't in it.
    Index("uq_tokens_card_ref_id", "card", "ref_id", unique=True, **_where("ref_id IS NOT NULL")),
    Index("ix_tokens_card", "card", **_where(TOKEN_IS_LEFT)),
    sqlite_strict=True,
)

is_left = tokens.c.spent_at.is_(None) & tokens.c.revoked_at.is_(None)

# Each row has the id of its card.
pins = Table(
    "pins",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("kid", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    Column("format", JsonText, nullable=True),
    sqlite_strict=True,
)

# PINs that were given, noted before they are compared. Never the PIN.
pin_attempts = Table(
    "pin_attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("card", Uuid, nullable=True),
    Column("number", WholeNumber, nullable=False),
    _words("outcome", Outcome),
    Column("created_at", UtcTime, nullable=False),
    Index("ix_pin_attempts_card_number", "card", "number"),
    sqlite_strict=True,
)

counts = pin_attempts.c.outcome != Outcome.SETTLED

is_open = holds.c.captured + holds.c.released < holds.c.amount

# Tenants that have rules of their own. Others need no row.
accounts = Table(
    "accounts",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("currencies", JsonText, nullable=True),
    Column("load_max", WholeNumber, nullable=True),
    Column("balance_max", WholeNumber, nullable=True),
    _words("expiry", Expiry),
    Column("reversal_window_s", WholeNumber, nullable=False),
    Column("recipients", JsonText, nullable=True),
    Column("approve_from", WholeNumber, nullable=True),
    CheckConstraint(f"load_max BETWEEN 0 AND {AMOUNT_MAX}", "load_max"),
    CheckConstraint(f"balance_max BETWEEN 0 AND {AMOUNT_MAX}", "balance_max"),
    CheckConstraint("reversal_window_s >= 0", "reversal_window_s"),
    sqlite_strict=True,
)

batches = Table(
    "batches",
    metadata,
    Column("account_id", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    _words("state", BatchState),
    _words("type", CardType),
    Column("requested", WholeNumber, nullable=False),
    Column("created", WholeNumber, nullable=False),
    _optional("name"),
    Column("metadata", JsonText, nullable=True),
    _optional("originated_by"),
    Column("created_at", UtcTime, nullable=False),
    _optional("created_by"),
    _optional("command_id"),
    _optional("pattern"),
    Column("listed", JsonText, nullable=True),
    Column("options", JsonText, nullable=True),
    Column("recipients", JsonText, nullable=True),
    Column("pin_recipients", JsonText, nullable=True),
    Column("busy", Flag, nullable=False),
    Column("job_count", WholeNumber, nullable=False),
    _optional("approved_by"),
    Column("completed_at", UtcTime, nullable=True),
    _optional("last_error"),
    PrimaryKeyConstraint("account_id", "batch_id"),
    CheckConstraint("created BETWEEN 0 AND requested", "created"),
    # What a command on a card looks at: few rows, whatever there is.
    Index("ix_batches_busy", "account_id", **_where("busy")),
    sqlite_strict=True,
)

# The card_ids of lists that are not made yet: while their batch is busy.
reserved_names = Table(
    "reserved_names",
    metadata,
    Column("account_id", Text, nullable=False),
    Column("card_id", Sortable, nullable=False),
    Column("batch_id", Text, nullable=False),
    PrimaryKeyConstraint("account_id", "card_id"),
    sqlite_strict=True,
)

# What is done to the cards of a batch piece by piece.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    _words("action", Action),
    Column("sequence", WholeNumber, nullable=False),
    Column("first", WholeNumber, nullable=False),
    Column("last", WholeNumber, nullable=False),
    Column("chunk_cards", WholeNumber, nullable=False),
    Column("open_chunks", WholeNumber, nullable=False),
    Column("command", Text, nullable=False),
    Column("command_id", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_activity_at", UtcTime, nullable=False),
    Column("last_progress_at", UtcTime, nullable=False),
    _optional("created_by"),
    _optional("originated_by"),
    _optional("reason"),
    Column("expires_at", UtcTime, nullable=True),
    Column("done", WholeNumber, nullable=False),
    Column("already", WholeNumber, nullable=False),
    Column("refused", WholeNumber, nullable=False),
    Column("ended_at", UtcTime, nullable=True),
    CheckConstraint("open_chunks >= 0", "open_chunks"),
    Index("ix_jobs_unfinished", "last_activity_at", **_where("ended_at IS NULL")),
    Index("ix_jobs_of_batch", "account_id", "batch_id", **_where("ended_at IS NULL")),
    sqlite_strict=True,
)

# Their pieces, from their beginning until the job has ended.
chunks = Table(
    "chunks",
    metadata,
    Column("job", Uuid, nullable=False),
    Column("number", WholeNumber, nullable=False),
    Column("done_at", UtcTime, nullable=True),
    # The secrets that were made, until the file is sealed. The key is not in the database.
    _optional("encrypted_secrets"),
    # The cards of a recall that it couldn't be done to, and why.
    Column("refused", JsonText, nullable=True),
    PrimaryKeyConstraint("job", "number"),
    sqlite_strict=True,
)

# Files about the cards of a batch, those with secrets sealed.
files = Table(
    "files",
    metadata,
    Column("name", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("batch_id", Text, nullable=False),
    _words("holds", Holds),
    Column("sha256", Text, nullable=False),
    Column("cards", WholeNumber, nullable=False),
    Column("bytes", WholeNumber, nullable=False),
    Column("recipients", JsonText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("written_at", UtcTime, nullable=True),
    Column("confirmed_at", UtcTime, nullable=True),
    _optional("last_error"),
    Column("tries", WholeNumber, nullable=False, server_default="0"),
    Column("next_try_at", UtcTime, nullable=True),
    Index("ix_files_batch", "account_id", "batch_id"),
    Index("ix_files_waiting", "created_at", **_where(FILE_WAITS)),
    sqlite_strict=True,
)

# What they hold, until somebody confirms that they have arrived.
file_parts = Table(
    "file_parts",
    metadata,
    Column("name", Text, nullable=False),
    Column("number", WholeNumber, nullable=False),
    # Base64.
    Column("content", Text, nullable=False),
    PrimaryKeyConstraint("name", "number"),
    sqlite_strict=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    # The answer itself stands in the outbox, once.
    Column("event_id", Uuid, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("account_id", "key"),
    sqlite_strict=True,
)

outbox = Table(
    "outbox",
    metadata,
    # Within a card positions rise with its versions: a position is drawn under the card's lock.
    Column("position", WholeNumber, primary_key=True, autoincrement=True),
    Column("id", Uuid, nullable=False),
    Column("account_id", Text, nullable=False),
    _words("type", EventType),
    Column("subject", Text, nullable=False),
    Column("partition_key", Text, nullable=False),
    Column("event", JsonLine, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    UniqueConstraint("id"),
    sqlite_strict=True,
)

# A row for each event that waits to be published. A trigger on the outbox adds it, so no event can
# be forgotten; the relay deletes it. Beside the events and not on them, because to change a row is
# to write all of it once more.
unpublished = Table(
    "unpublished",
    metadata,
    Column("position", WholeNumber, primary_key=True, autoincrement=False),
    sqlite_strict=True,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", WholeNumber, primary_key=True, autoincrement=True),
    Column("received_at", UtcTime, nullable=False),
    Column("queue", Text, nullable=True),
    Column("task", Text, nullable=True),
    Column("message_id", Text, nullable=True),
    Column("reason", Text, nullable=False),
    # One short line; below it a line per reason, or a defect's traceback.
    Column("detail", Text, nullable=True),
    Column("headers", JsonText, nullable=True),
    Column("content_type", Text, nullable=True),
    Column("content_encoding", Text, nullable=True),
    Column("body", LargeBinary, nullable=False),
    Column("is_masked", Flag, nullable=False),
    Column("sealed", LargeBinary, nullable=True),
    # Of all that came: a message that comes twice is one letter.
    Column("digest", Text, nullable=False),
    # Set instead of deleting the row, so that nothing that arrived ever goes without a trace.
    Column("settled_at", UtcTime, nullable=True),
    Column("settled_as", Text, nullable=True),
    # Where Redis keeps the whole of an entry that was too large to be read; empty if it doesn't.
    Column("aside_key", Text, nullable=True),
    Index("uq_dead_letters_message_id_digest", LETTER_ID, "digest", unique=True),
    sqlite_strict=True,
)

starts = Table(
    "starts",
    metadata,
    # The id of the message and a digest of its body: see messages.start_key.
    Column("message_key", Text, primary_key=True),
    Column("starts", WholeNumber, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    # How many workers had died of the message when it was last started, as far as is known. NULL:
    # that start came to nothing.
    Column("deaths", WholeNumber, nullable=True),
    sqlite_strict=True,
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("renewals", WholeNumber, nullable=False),
    Column("position", WholeNumber, nullable=True),
    sqlite_strict=True,
)
