"""Reconcile finds every corruption that SQL can make, and none in books that are true."""
# ruff: noqa: S608  # the SQL is made of constants

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any, NamedTuple, get_args

import pytest
from sqlalchemy import Column, Connection, Engine, Table, select, text
from sqlalchemy.exc import DBAPIError

from card_worker.domain.events import CardEvent
from card_worker.domain.ids import card_uuid
from card_worker.storage import tables
from card_worker.storage.engine import open_engine, reading, snapshot
from card_worker.storage.reconcile import differences, ids, orders
from card_worker.storage.reconcile.reading import Reader
from card_worker.storage.reconcile.report import Differences
from card_worker.storage.types import EnumText, Flag, JsonLine, JsonText, UtcTime, Uuid, WholeNumber
from tests import servers
from tests.codes import plain_issuer
from tests.orders import ACCOUNT
from tests.storage.populated import OTHER, Teller, populate


class Corruption(NamedTuple):
    """What is done to a healthy database, and what has to be reported."""

    name: str
    sql: str
    check: str
    what: str
    """How the text begins that says what is wrong. `*` stands for an id and more."""


def card(name: str) -> str:
    """Return the id of a card, quoted."""
    return f"'{card_uuid(ACCOUNT, name)}'"


def on(name: str) -> str:
    """Return the condition that a row of `cards` is this card."""
    return f"WHERE id = {card(name)}"


def told(type: str, subject: str) -> str:
    """Return the condition that an event is of this type, about this card or batch."""
    return f"WHERE type = '{type}' AND subject = '{subject}' AND account_id = '{ACCOUNT}'"


def moved(name: str, ref_id: str) -> str:
    """Return the condition that a transaction is the card's with this reference."""
    return f"WHERE card = {card(name)} AND ref_id = '{ref_id}'"


def held(ref_id: str) -> str:
    return f"WHERE id = (SELECT id FROM transactions {moved('held', ref_id)})"


def batch(name: str) -> str:
    return f"WHERE batch_id = '{name}'"


LATER = "'2031-01-01T00:00:00.000Z'"
EARLIER = "'2021-01-01T00:00:00.000Z'"
NOBODY = "'00000000-0000-4000-8000-000000000000'"
CARD_CORRUPTIONS = [
    Corruption(
        "closed with money",
        f"UPDATE cards SET state = 'closed' {on('spent')}",
        "state_fits_money",
        "amount_balance (closed)",
    ),
    Corruption(
        "closed without an event",
        f"UPDATE cards SET state = 'closed' {on('emptied')}",
        "state_follows_from_events",
        "state",
    ),
    Corruption(
        "open again",
        f"UPDATE cards SET state = 'active' {on('closed')}",
        "state_follows_from_events",
        "state",
    ),
    Corruption(
        "expired by policy, with money",
        f"UPDATE cards SET amount_balance = 5 {on('broken')}",
        "amounts_are_sums",
        "amount_balance",
    ),
    Corruption(
        "expired without an event",
        f"UPDATE cards SET state = 'expired' {on('spent')}",
        "state_follows_from_events",
        "state",
    ),
    Corruption(
        "still active after it expired",
        f"UPDATE cards SET state = 'active' {on('kept')}",
        "state_follows_from_events",
        "state",
    ),
    Corruption(
        "inactive with money",
        f"UPDATE cards SET state = 'inactive', currency = NULL {on('spent')}",
        "state_fits_money",
        "amount_balance (inactive)",
    ),
    Corruption(
        "inactive with a currency",
        f"UPDATE cards SET currency = 'NOK' {on('B-0005')}",
        "cards_equal_their_batch",
        "currency",
    ),
    Corruption(
        "inactive again with a currency",
        f"UPDATE cards SET currency = 'NOK' {on('B-0002')}",
        "card_equals_its_last_event",
        "card: currency",
    ),
    Corruption(
        "active without a currency",
        f"UPDATE cards SET currency = NULL {on('emptied')}",
        "state_fits_money",
        "currency",
    ),
    Corruption(
        "another currency",
        f"UPDATE cards SET currency = 'SEK' {on('spent')}",
        "history_is_a_chain",
        "currency",
    ),
    Corruption(
        "a state that there isn't",
        f"UPDATE cards SET state = 'lost' {on('spent')}",
        "columns_hold_their_type",
        "cards.state",
    ),
    Corruption(
        "blocked without an event",
        f"UPDATE cards SET blocked = TRUE {on('closed')}",
        "state_follows_from_events",
        "blocked",
    ),
    Corruption(
        "no longer blocked",
        f"UPDATE cards SET blocked = FALSE {on('blocked')}",
        "state_follows_from_events",
        "blocked",
    ),
    Corruption(
        "another first load",
        f"UPDATE cards SET amount = 999 {on('spent')}",
        "amounts_are_sums",
        "amount",
    ),
    *[
        Corruption(
            f"another {name}",
            f"UPDATE cards SET {name} = {name} + 1 {on('held')}",
            "amounts_are_sums",
            name,
        )
        for name in (
            "amount_balance",
            "amount_funds",
            "amount_drawdown",
            "amount_pending",
            "amount_reserved",
        )
    ],
    Corruption(
        "a version ahead of its events",
        f"UPDATE cards SET version = version + 1 {on('spent')}",
        "has_each_event_once",
        "version",
    ),
    Corruption(
        "a version behind its events",
        f"UPDATE cards SET version = version - 1 {on('spent')}",
        "has_each_event_once",
        "version",
    ),
    Corruption(
        "another owner",
        f"UPDATE cards SET customer_id = 'thief' {on('spent')}",
        "card_equals_its_last_event",
        "card: customer_id",
    ),
    Corruption(
        "metadata that look alike",
        f"UPDATE cards SET metadata = '{{\"x\":1}}' {on('updated')}",
        "card_equals_its_last_event",
        "card: metadata",
    ),
    Corruption(
        "another end",
        f"UPDATE cards SET expires_at = {LATER} {on('kept')}",
        "card_equals_its_last_event",
        "card: expires_at",
    ),
    Corruption(
        "another activation",
        f"UPDATE cards SET activated_at = {LATER} {on('spent')}",
        "state_follows_from_events",
        "activated_at",
    ),
    *[
        Corruption(
            f"changed at another time: {name}",
            f"UPDATE cards SET changed_at = {time} {on(name)}",
            "state_follows_from_events",
            "changed_at",
        )
        for name, time in (
            ("spent", LATER),
            ("spent", "NULL"),
            ("spent", "created_at"),
            ("B-0001", EARLIER),
            ("B-0005", EARLIER),
            ("H-0001", EARLIER),
        )
    ],
    Corruption(
        "changed at another time than it was given its token",
        f"UPDATE cards SET changed_at = {LATER} {on('H-0001')}",
        "cards_equal_their_batch",
        "token",
    ),
    Corruption(
        "a card of another name",
        f"UPDATE cards SET card_id = 'renamed-by-hand' {on('spent')}",
        "state_follows_from_events",
        "id",
    ),
    Corruption(
        "a card of another account",
        f"UPDATE cards SET account_id = '{OTHER}' {on('blocked')}",
        "state_follows_from_events",
        "id",
    ),
    Corruption(
        "a card that is gone",
        f"DELETE FROM cards {on('emptied')}",
        "events_have_their_card",
        "card of",
    ),
    Corruption(
        "transactions whose card is gone",
        f"DELETE FROM cards {on('emptied')}",
        "rows_have_their_card",
        "card of transactions",
    ),
    Corruption(
        "codes that aren't there",
        f"UPDATE cards SET has_codes = TRUE {on('spent')}",
        "flagged_cards_have_codes",
        "has_codes",
    ),
    Corruption(
        "codes that nobody looks for",
        f"UPDATE cards SET has_codes = FALSE {on('paid')}",
        "codes_are_flagged_on_their_card",
        "has_codes",
    ),
]
MONEY_CORRUPTIONS = [
    Corruption(
        "a transaction that is gone",
        f"DELETE FROM transactions {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: balance_before",
    ),
    Corruption(
        "the last transaction is gone",
        f"DELETE FROM transactions {moved('emptied', 'r7')}",
        "transactions_equal_their_events",
        "transaction",
    ),
    Corruption(
        "a transaction of its own making",
        "INSERT INTO transactions (id, account_id, card, type, amount, currency, debit, credit,"
        " balance_before, balance_after, version, created_at) SELECT"
        f" {NOBODY}, account_id, id, 'fund', 5, 'NOK', 'issuer', 'card', amount_balance,"
        f" amount_balance + 5, version + 1, created_at FROM cards {on('spent')}",
        "history_is_a_chain",
        "transaction *: event",
    ),
    Corruption(
        "another amount",
        f"UPDATE transactions SET amount = 301, balance_after = balance_after - 1"
        f" {moved('spent', 'r1')}",
        "transactions_equal_their_events",
        "transaction: amount",
    ),
    Corruption(
        "an amount of less than nothing",
        f"UPDATE transactions SET amount = -amount {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: amount",
    ),
    Corruption(
        "the other way round",
        f"UPDATE transactions SET debit = credit, credit = debit {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: debit",
    ),
    Corruption(
        "sides of another type",
        f"UPDATE transactions SET credit = 'customer' {moved('spent', 'r1')}",
        "history_is_a_chain",
        "transaction *: credit",
    ),
    Corruption(
        "another type",
        f"UPDATE transactions SET type = 'adjustment' {moved('spent', 'r3')}",
        "transactions_equal_their_events",
        "transaction: type",
    ),
    Corruption(
        "history of another account",
        f"UPDATE transactions SET account_id = '{OTHER}' {moved('spent', 'r1')}",
        "history_is_a_chain",
        "transaction *: account_id",
    ),
    Corruption(
        "history of another card",
        f"UPDATE transactions SET card = {card('to')}, version = 9 {moved('spent', 'r1')}",
        "history_is_a_chain",
        "transaction *: event",
    ),
    Corruption(
        "history in another order",
        f"UPDATE transactions SET version = 99 {moved('spent', 'r1')}",
        "history_is_a_chain",
        "transaction *: version",
    ),
    Corruption(
        "history in another currency",
        f"UPDATE transactions SET currency = 'SEK' {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: currency",
    ),
    Corruption(
        "balances of another chain",
        "UPDATE transactions SET balance_before = balance_before + 1,"
        f" balance_after = balance_after + 1 {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: balance_before",
    ),
    Corruption(
        "history of another day",
        f"UPDATE transactions SET created_at = {LATER} {moved('spent', 'r3')}",
        "history_is_a_chain",
        "transaction *: created_at",
    ),
    Corruption(
        "another reference",
        f"UPDATE transactions SET ref_id = 'r99' {moved('spent', 'r3')}",
        "transactions_equal_their_events",
        "transaction: ref_id",
    ),
    Corruption(
        "a parent that doesn't exist",
        f"UPDATE transactions SET parent_id = {NOBODY} {moved('spent', 'r2')}",
        "refunds_follow_drawdowns",
        "parent_id",
    ),
    Corruption(
        "a parent on another card",
        "UPDATE transactions SET parent_id = (SELECT id FROM transactions"
        f" {moved('emptied', 'r7')}) {moved('spent', 'r2')}",
        "refunds_follow_drawdowns",
        "parent_id",
    ),
    Corruption(
        "a refund of a card that was not replaced by this one",
        "UPDATE transactions SET parent_id = (SELECT id FROM transactions"
        f" {moved('emptied', 'r7')}) {moved('replacing', 'q2')}",
        "refunds_follow_drawdowns",
        "parent_id",
    ),
    Corruption(
        "money given away that was sold",
        f"UPDATE transactions SET funding = 'sold' WHERE card = {card('final')}"
        " AND funding = 'promotional'",
        "transactions_equal_their_events",
        "transaction: funding",
    ),
    Corruption(
        "a posting that was not counted",
        f"UPDATE cards SET postings = postings - 1 WHERE id = {card('spent')}",
        "amounts_are_sums",
        "postings",
    ),
    Corruption(
        "another number of activations",
        f"UPDATE cards SET activation = 2 WHERE id = {card('spent')}",
        "state_follows_from_events",
        "activation",
    ),
    Corruption(
        "a card that forgets what has replaced it",
        f"UPDATE cards SET replaced_by = NULL WHERE id = {card('replaced')}",
        "card_equals_its_last_event",
        "replaced_by",
    ),
    Corruption(
        "a card that nothing has replaced",
        f"UPDATE cards SET replaced_by = {card('from')} WHERE id = {card('spent')}",
        "state_follows_from_events",
        "replaced_by",
    ),
    Corruption(
        "a release of nothing",
        f"UPDATE transactions SET parent_id = NULL {moved('held', 'h5')}",
        "parents_are_earlier_on_the_card",
        "transaction *: parent_id",
    ),
    Corruption(
        "more refunded than drawn",
        f"UPDATE transactions SET amount = 600, balance_after = balance_before + 600"
        f" {moved('spent', 'r2')}",
        "refunds_are_no_larger",
        "refunded",
    ),
    Corruption(
        "a transfer with one end",
        f"DELETE FROM transactions WHERE card = {card('to')} AND type = 'transfer'",
        "transfers_have_two_ends",
        "what arrived",
    ),
    Corruption(
        "money between cards",
        f"DELETE FROM transactions WHERE card = {card('to')} AND type = 'transfer'",
        "currencies_add_up",
        "money between cards",
    ),
    Corruption(
        "a hold that is gone",
        f"DELETE FROM holds {held('h1')}",
        "holds_equal_their_transactions",
        "hold ",
    ),
    Corruption(
        "a hold of another card",
        f"UPDATE holds SET card = {card('to')} {held('h1')}",
        "holds_equal_their_transactions",
        "hold *: card",
    ),
    Corruption(
        "a hold of another account",
        f"UPDATE holds SET account_id = '{OTHER}' {held('h1')}",
        "holds_equal_their_transactions",
        "hold *: account_id",
    ),
    Corruption(
        "a hold of another amount",
        f"UPDATE holds SET amount = amount + 1 {held('h1')}",
        "holds_equal_their_transactions",
        "hold *: amount",
    ),
    Corruption(
        "a hold captured without a drawdown",
        f"UPDATE holds SET captured = captured + 1 {held('h1')}",
        "holds_equal_their_transactions",
        "hold *: captured",
    ),
    Corruption(
        "a hold released without a transaction",
        f"UPDATE holds SET released = amount {held('h1')}",
        "holds_equal_their_transactions",
        "amount_reserved, compared with the holds",
    ),
    Corruption(
        "a hold for longer",
        f"UPDATE holds SET expires_at = {LATER} {held('h7')}",
        "holds_equal_their_events",
        "hold *: expires_at",
    ),
    Corruption(
        "a hold without a transaction",
        "INSERT INTO holds (id, account_id, card, amount, captured, released, created_at)"
        f" SELECT {NOBODY}, account_id, id, 1, 0, 0, created_at FROM cards {on('spent')}",
        "holds_have_their_transaction",
        "pending transaction of the hold",
    ),
]
CODE_CORRUPTIONS = [
    Corruption(
        "a token that is gone",
        f"DELETE FROM tokens WHERE card = {card('paid')}",
        "card_equals_its_last_event",
        "card: tokens",
    ),
    Corruption(
        "a token of an untouched card that is gone",
        f"DELETE FROM tokens WHERE card = {card('H-0001')}",
        "cards_equal_their_batch",
        "tokens",
    ),
    Corruption(
        "a token of another card",
        f"UPDATE tokens SET card = {card('once')} WHERE card = {card('paid')}",
        "tokens_were_issued",
        "id",
    ),
    Corruption(
        "a token of another account",
        f"UPDATE tokens SET account_id = '{OTHER}' WHERE card = {card('paid')}",
        "codes_have_their_card",
        "token: account_id",
    ),
    Corruption(
        "a token without a card",
        f"UPDATE tokens SET card = {NOBODY} WHERE card = {card('paid')}",
        "codes_have_their_card",
        "token's card",
    ),
    Corruption(
        "a token that was spent serves again",
        f"UPDATE tokens SET spent_at = NULL WHERE card = {card('once')}",
        "card_equals_its_last_event",
        "card: tokens",
    ),
    Corruption(
        "a token that was spent at another time",
        f"UPDATE tokens SET spent_at = {LATER} WHERE card = {card('once')}",
        "spent_tokens_were_used",
        "spent_at",
    ),
    Corruption(
        "a token that was revoked serves again",
        f"UPDATE tokens SET revoked_at = NULL WHERE card = {card('tokens')}",
        "tokens_equal_their_events",
        "token *: revoked_at",
    ),
    Corruption(
        "a token serves for ever",
        f"UPDATE tokens SET expires_at = NULL WHERE card = {card('B-0001')}",
        "card_equals_its_last_event",
        "card: tokens",
    ),
    Corruption(
        "a revoked token with another end",
        f"UPDATE tokens SET expires_at = {LATER} WHERE ref_id = 'gone'",
        "tokens_equal_their_events",
        "token *: expires_at",
    ),
    Corruption(
        "a token that was spent is gone",
        f"DELETE FROM tokens WHERE card = {card('once')}",
        "tokens_equal_their_events",
        "token",
    ),
    Corruption(
        "a token that looks like another",
        f"UPDATE tokens SET masked_code = '****1234' WHERE card = {card('once')}",
        "tokens_equal_their_events",
        "token *: masked_code",
    ),
    Corruption(
        "a token without a digest",
        f"UPDATE tokens SET digest = 'x' WHERE card = {card('paid')}",
        "codes_are_hashed",
        "token: digest",
    ),
    Corruption(
        "a PIN that is gone",
        f"DELETE FROM pins {on('paid')}",
        "card_equals_its_last_event",
        "card: pin",
    ),
    Corruption(
        "a PIN without a card",
        f"UPDATE pins SET id = {NOBODY} {on('paid')}",
        "codes_have_their_card",
        "PIN's card",
    ),
    Corruption(
        "a PIN of another account",
        f"UPDATE pins SET account_id = '{OTHER}' {on('paid')}",
        "codes_have_their_card",
        "PIN: account_id",
    ),
    Corruption(
        "a PIN of another day",
        f"UPDATE pins SET changed_at = {LATER} {on('paid')}",
        "state_follows_from_events",
        "PIN: changed_at",
    ),
    Corruption(
        "a PIN of an untouched card of another day",
        f"UPDATE pins SET changed_at = {LATER} {on('H-0001')}",
        "cards_equal_their_batch",
        "PIN: changed_at",
    ),
    Corruption(
        "a PIN attempt that is open though it was answered",
        f"UPDATE pin_attempts SET outcome = 'open' WHERE card = {card('guessed')} AND number = 1",
        "pin_attempts_have_their_outcome",
        "outcome",
    ),
    Corruption(
        "a right PIN that counts as wrong",
        f"UPDATE pin_attempts SET outcome = 'wrong' WHERE card = {card('paid')}",
        "pin_attempts_have_their_outcome",
        "outcome",
    ),
    *[
        Corruption(
            f"a PIN attempt with an outcome that there isn't, {where}",
            f"UPDATE pin_attempts SET outcome = 'lost' WHERE card {where}",
            "pin_attempts_have_their_outcome",
            "outcome",
        )
        for where in (f"= {card('guessed')} AND number = 1", "IS NULL")
    ],
    Corruption(
        "a PIN attempt that lost its card",
        f"UPDATE pin_attempts SET card = NULL WHERE card = {card('guessed')} AND number = 2",
        "pin_attempts_are_numbered",
        "number, without a card",
    ),
    Corruption(
        "a PIN attempt of another account",
        f"UPDATE pin_attempts SET account_id = '{OTHER}' WHERE card = {card('guessed')}",
        "codes_have_their_card",
        "PIN attempt: account_id",
    ),
    Corruption(
        "a PIN attempt without a card, of another account",
        f"UPDATE pin_attempts SET account_id = '{OTHER}' WHERE card IS NULL",
        "pin_attempts_have_their_outcome",
        "account_id",
    ),
    Corruption(
        "two PIN attempts with one number",
        f"UPDATE pin_attempts SET number = 1 WHERE card = {card('guessed')} AND number = 2",
        "pin_attempts_are_numbered",
        "PIN attempts with number",
    ),
]
BATCH_CORRUPTIONS = [
    Corruption(
        "a batch of more cards",
        f"UPDATE batches SET requested = 6 {batch('B')}",
        "batches_equal_their_events",
        "requested",
    ),
    Corruption(
        "a batch that has made more",
        f"UPDATE batches SET created = created + 1 {batch('H')}",
        "cards_have_their_batch",
        "created",
    ),
    Corruption(
        "a batch that is gone",
        f"DELETE FROM batches {batch('B')}",
        "cards_have_their_batch",
        "batch that cards name",
    ),
    Corruption(
        "a card of the batch that is gone",
        f"DELETE FROM cards {on('B-0005')}",
        "batches_have_their_cards",
        "card of the batch",
    ),
    Corruption(
        "a card without its batch",
        f"UPDATE cards SET batch_id = NULL {on('B-0005')}",
        "cards_equal_their_batch",
        "batch_id",
    ),
    Corruption(
        "a card of another batch",
        f"UPDATE cards SET batch_id = 'R' {on('B-0005')}",
        "cards_have_their_batch",
        "created",
    ),
    Corruption(
        "a card of no batch that says so",
        f"UPDATE cards SET batch_id = 'B' {on('spent')}",
        "has_each_event_once",
        "batch_id",
    ),
    Corruption(
        "a card of another type than its batch",
        f"UPDATE cards SET type = 'credit_note' {on('B-0005')}",
        "cards_equal_their_batch",
        "type",
    ),
    Corruption(
        "running without a job",
        "DELETE FROM jobs WHERE batch_id = 'H'",
        "batch_states_fit_their_jobs",
        "job of a batch that is running",
    ),
    Corruption(
        "running though it was completed",
        f"UPDATE batches SET state = 'running' {batch('B')}",
        "batch_states_fit_their_jobs",
        "busy (running)",
    ),
    Corruption(
        "busy without a job",
        f"UPDATE batches SET busy = TRUE {batch('B')}",
        "batch_states_fit_their_jobs",
        "busy (completed)",
    ),
    Corruption(
        "busy, having been cancelled",
        f"UPDATE batches SET busy = TRUE {batch('C')}",
        "batch_states_fit_their_jobs",
        "job of a batch that is cancelled",
    ),
    Corruption(
        "cancelled without an event",
        f"UPDATE batches SET state = 'cancelled' {batch('B')}",
        "batch_states_have_their_event",
        "event batch.cancelled",
    ),
    Corruption(
        "another number of cards to be removed",
        f"UPDATE batches SET created = created - 1 {batch('X')}",
        "batches_equal_their_events",
        "created",
    ),
    Corruption(
        "not busy though it runs",
        f"UPDATE batches SET busy = FALSE {batch('H')}",
        "batch_states_fit_their_jobs",
        "busy (running)",
    ),
    Corruption(
        "completed before all cards are made",
        f"UPDATE batches SET state = 'completed', busy = FALSE, completed_at = {LATER}"
        f" {batch('H')}",
        "batch_states_fit_their_jobs",
        "created (completed)",
    ),
    Corruption(
        "completed at another time",
        f"UPDATE batches SET completed_at = {LATER} {batch('B')}",
        "batches_equal_their_events",
        "completed_at",
    ),
    Corruption(
        "approved by somebody else",
        f"UPDATE batches SET approved_by = 'thief' {batch('A')}",
        "batches_equal_their_events",
        "approved_by",
    ),
    Corruption(
        "an order that wasn't asked for",
        f"UPDATE batches SET command_id = 'other' {batch('B')}",
        "batches_were_ordered",
        "command_id",
    ),
    Corruption(
        "a job of another range",
        "UPDATE jobs SET last = last - 1 WHERE batch_id = 'B' AND action = 'block'",
        "jobs_begin_as_stated",
        "last",
    ),
    Corruption(
        "not busy though its cards are being withdrawn",
        f"UPDATE batches SET busy = FALSE {batch('R')}",
        "batch_states_fit_their_jobs",
        "busy (cancelled)",
    ),
    Corruption(
        "a file of another kind",
        "UPDATE files SET kind = 'codes' WHERE name LIKE '%/B.pins.csv.age'",
        "files_equal_their_events",
        "file *: kind",
    ),
    *[
        Corruption(
            f"a removal with another number of {name}",
            f"UPDATE jobs SET {name} = {name} + 1 WHERE batch_id = 'G' AND action = 'remove'",
            "removals_count_their_cards",
            what,
        )
        for name, what in (
            ("done", "done"),
            ("refused", "already, refused"),
            ("open_chunks", "open_chunks"),
        )
    ],
    Corruption(
        "a cancellation without its reason",
        "UPDATE jobs SET reason = NULL WHERE batch_id = 'C' AND action = 'cancel'",
        "jobs_begin_as_stated",
        "reason",
    ),
    Corruption(
        "a job that counts another number",
        "UPDATE jobs SET done = done + 1 WHERE batch_id = 'B' AND action = 'block'",
        "jobs_end_as_stated",
        "done",
    ),
    Corruption(
        "a job that thinks it is done",
        "UPDATE jobs SET open_chunks = 0 WHERE batch_id = 'H'",
        "jobs_count_their_chunks",
        "open_chunks",
    ),
    Corruption(
        "a job that never began",
        f"UPDATE jobs SET id = {NOBODY} WHERE batch_id = 'B' AND action = 'block'",
        "jobs_begin_as_stated",
        "event with which to block began",
    ),
    *[
        Corruption(
            f"a batch that counts {count} jobs",
            f"UPDATE batches SET job_count = {count} {batch(name)}",
            "batches_count_their_jobs",
            "jobs",
        )
        for name, count in (("B", "job_count - 1"), ("B", "job_count + 1"), ("W", "1"), ("W", "-1"))
    ],
    Corruption(
        "a job that is gone",
        "DELETE FROM jobs WHERE batch_id = 'B' AND action = 'make'",
        "batches_count_their_jobs",
        "jobs",
    ),
    *[
        Corruption(
            f"a job with sequence {sequence}",
            f"UPDATE jobs SET sequence = {sequence} WHERE batch_id = 'B' AND action = 'block'",
            "batches_count_their_jobs",
            "jobs",
        )
        for sequence in ("sequence + 1", "99", "-1", "0")
    ],
    Corruption(
        "jobs without a sequence in a batch that counts them",
        f"UPDATE jobs SET sequence = 0 {batch('B')}",
        "batches_count_their_jobs",
        "jobs",
    ),
    Corruption(
        "a job that was done out of turn",
        "UPDATE jobs SET done = done + 2, open_chunks = open_chunks - 1"
        " WHERE batch_id = 'R' AND action = 'cancel'",
        "jobs_are_done_in_turn",
        "begun",
    ),
    Corruption(
        "a job that ended out of turn",
        f"UPDATE jobs SET ended_at = {LATER} WHERE batch_id = 'R' AND action = 'unblock'",
        "jobs_are_done_in_turn",
        "begun",
    ),
    Corruption(
        "jobs in another order",
        "UPDATE jobs SET sequence = 5 - sequence WHERE batch_id = 'R'"
        " AND action IN ('block', 'unblock')",
        "jobs_are_done_in_turn",
        "begun",
    ),
    Corruption(
        "a chunk that is gone",
        "DELETE FROM chunks WHERE number = 3 AND job = (SELECT id FROM jobs WHERE batch_id = 'H')",
        "jobs_count_their_chunks",
        "chunks",
    ),
    Corruption(
        "chunks of no job",
        f"UPDATE chunks SET job = {NOBODY} WHERE number = 3 AND job = (SELECT id FROM jobs"
        " WHERE batch_id = 'H')",
        "chunks_have_their_job",
        "job of chunks",
    ),
    Corruption(
        "a file that is gone",
        "DELETE FROM files WHERE name LIKE '%/B.csv.age'",
        "files_equal_their_events",
        "file",
    ),
    Corruption(
        "a part that is gone",
        "DELETE FROM file_parts WHERE name LIKE '%/B.csv.age'",
        "files_are_whole",
        "bytes",
    ),
    Corruption(
        "a part of the same length",
        "UPDATE file_parts SET content = replace(content, 'A', 'B') WHERE name LIKE '%/B.csv.age'",
        "files_are_whole",
        "sha256",
    ),
    Corruption(
        "a part that isn't Base64",
        "UPDATE file_parts SET content = '#' WHERE name LIKE '%/B.csv.age'",
        "files_are_whole",
        "part 1",
    ),
    Corruption(
        "parts that start in the middle",
        "UPDATE file_parts SET number = 2 WHERE name LIKE '%/B.csv.age'",
        "files_are_whole",
        "number of a part",
    ),
    Corruption(
        "another digest of a file",
        "UPDATE files SET sha256 = repeat('0', 64) WHERE name LIKE '%/B.csv.age'",
        "files_equal_their_events",
        "file *: sha256",
    ),
    Corruption(
        "another size of a file",
        "UPDATE files SET bytes = bytes + 1 WHERE name LIKE '%/B.pins.csv.age'",
        "files_are_whole",
        "bytes",
    ),
    Corruption(
        "parts of no file",
        "INSERT INTO file_parts VALUES ('T00000001/none', 1, '')",
        "parts_have_their_file",
        "file of",
    ),
    Corruption(
        "secrets that are kept though they were confirmed",
        "INSERT INTO file_parts SELECT name, 1, 'AAAA' FROM files WHERE name LIKE '%/L.csv.age'",
        "files_are_whole",
        "parts of a confirmed file",
    ),
    Corruption(
        "a confirmation that is forgotten",
        "UPDATE files SET confirmed_at = NULL WHERE name LIKE '%/L.csv.age'",
        "files_equal_their_events",
        "file *: confirmed_at",
    ),
]
NAME_CORRUPTIONS = [
    Corruption(
        f"{name}: {what}",
        sql,
        "lists_reserve_their_names",
        what,
    )
    for name, sql, what in (
        (
            "a name that a list has not reserved",
            "DELETE FROM reserved_card_ids WHERE card_id = 'waits-3'",
            "reserved name waits-3",
        ),
        (
            "a list without any of its names",
            f"DELETE FROM reserved_card_ids {batch('waits')}",
            "reserved name waits-1",
        ),
        (
            "a list that is being made, without a name",
            "DELETE FROM reserved_card_ids WHERE card_id = 'making-1'",
            "reserved name making-1",
        ),
        (
            "a list that is being removed, without a name",
            "DELETE FROM reserved_card_ids WHERE card_id = 'removing-5'",
            "reserved name removing-5",
        ),
        (
            "a name that the list doesn't have",
            f"INSERT INTO reserved_card_ids VALUES ('{ACCOUNT}', 'other', 'waits')",
            "reserved name other",
        ),
        (
            "a name of another list",
            "UPDATE reserved_card_ids SET batch_id = 'making' WHERE card_id = 'waits-2'",
            "reserved name waits-2",
        ),
        (
            "a name of another account",
            f"UPDATE reserved_card_ids SET account_id = '{OTHER}' WHERE card_id = 'waits-2'",
            "reserved name waits-2",
        ),
        (
            "a name of a batch that there isn't",
            "UPDATE reserved_card_ids SET batch_id = 'nothing' WHERE card_id = 'waits-2'",
            "reserved name waits-2",
        ),
        (
            "a name of a list that is made",
            f"INSERT INTO reserved_card_ids VALUES ('{ACCOUNT}', 'made-1', 'made')",
            "reserved name made-1",
        ),
        (
            "a name of a list that was cancelled",
            f"INSERT INTO reserved_card_ids VALUES ('{ACCOUNT}', 'removed-1', 'removed')",
            "reserved name removed-1",
        ),
        (
            "a name of a pattern",
            f"INSERT INTO reserved_card_ids VALUES ('{ACCOUNT}', 'W-0001', 'W')",
            "reserved name W-0001",
        ),
        (
            "a list that doesn't wait any more",
            f"UPDATE batches SET busy = FALSE {batch('waits')}",
            "reserved name waits-1",
        ),
    )
]
EVENT_CORRUPTIONS = [
    Corruption(
        "an event that is gone",
        f"DELETE FROM outbox {told('card.updated', 'updated')}",
        "has_each_event_once",
        "version",
    ),
    Corruption(
        "an event in the middle that is gone",
        f"DELETE FROM outbox {told('card.blocked', 'unblocked')}",
        "has_each_event_once",
        "events with version 2",
    ),
    Corruption(
        "another id",
        f"UPDATE outbox SET id = {NOBODY} {told('card.updated', 'updated')}",
        "columns_are_as_in_the_json",
        "event.id",
    ),
    Corruption(
        "another id, also in the JSON",
        f"UPDATE outbox SET id = {NOBODY}, event = replace(event, CAST(id AS TEXT), {NOBODY})"
        f" {told('card.updated', 'updated')}",
        "keys_have_their_answer",
        "answer",
    ),
    *[
        Corruption(
            f"another {column}",
            f"UPDATE outbox SET {column} = {value} {told('card.updated', 'updated')}",
            check,
            what,
        )
        for column, value, check, what in (
            ("type", "'card.blocked'", "columns_are_as_in_the_json", "event.type"),
            ("type", "'card.lost'", "columns_hold_their_type", "outbox.type"),
            ("subject", "'other'", "columns_are_as_in_the_json", "event.subject"),
            ("partition_key", "'other'", "columns_are_as_in_the_json", "partition_key"),
            ("account_id", f"'{OTHER}'", "columns_are_as_in_the_json", "event.source"),
            ("created_at", LATER, "columns_are_as_in_the_json", "event.time"),
            (
                "event",
                'replace(event, \'"source\', \'"traceparent":"4711","source\')',
                "columns_are_as_in_the_json",
                "event.traceparent",
            ),
            ("event", "'{}'", "events_are_json", "event"),
            ("event", "'{\"data\":7}'", "events_are_json", "event"),
            ("event", "'nonsense'", "events_are_json", "event"),
            (
                "event",
                "replace(event, '\"N\"', '\"M\"')",
                "card_equals_its_last_event",
                "card: name",
            ),
            (
                "event",
                "replace(event, '\"version\":2', '\"version\":3')",
                "columns_are_as_in_the_json",
                "event.sequence",
            ),
        )
    ],
    Corruption(
        "an event of another amount",
        "UPDATE outbox SET event = replace(event, '\"amount\":300', '\"amount\":3000')"
        f" {told('card.drawn_down', 'spent')}",
        "transactions_equal_their_events",
        "transaction: amount",
    ),
    Corruption(
        "an event without its transaction",
        "UPDATE outbox SET event = replace(event, '\"transaction\":{', '\"transactions\":{')"
        f" {told('card.drawn_down', 'spent')}",
        "transactions_equal_their_events",
        "transaction",
    ),
    *[
        Corruption(
            f"a listed card with another {name}",
            f"UPDATE outbox SET event = {sql} {told('batch.completed', 'L')}",
            "listed_cards_equal_their_event",
            what,
        )
        for name, sql, what in (
            ("id", f"replace(event, {card('L2')}, {NOBODY})", "card L2: id"),
            (
                "card_id",
                'replace(event, \'"card_id":"L2"\', \'"card_id":"L3"\')',
                "card L2: card_id",
            ),
            ("type", "replace(event, 'credit_note', 'gift_card')", "card L2: type"),
            ("status", "replace(event, '\"inactive\"', '\"unused\"')", "card L1: status"),
            (
                "token",
                'replace(event, \'"masked_code":"\', \'"masked_code":"*\')',
                "card L1: masked_code",
            ),
        )
    ],
    Corruption(
        "a card of an approved list with another token",
        'UPDATE outbox SET event = replace(event, \'"masked_code":"\', \'"masked_code":"*\')'
        f" {told('batch.completed', 'made')}",
        "listed_cards_equal_their_event",
        "card made-1: masked_code",
    ),
    Corruption(
        "a listed card that the answer lacks",
        'UPDATE outbox SET event = replace(event, \'"cards":[{\', \'"cards":[],"others":[{\')'
        f" {told('batch.completed', 'L')}",
        "listed_cards_equal_their_event",
        "cards",
    ),
    Corruption(
        "an answer to a list without any card",
        "UPDATE outbox SET event = replace(event, '\"cards\":[{', '\"others\":[{')"
        f" {told('batch.completed', 'L')}",
        "listed_cards_equal_their_event",
        "cards",
    ),
    Corruption(
        "events in another order",
        f"UPDATE outbox SET position = position + 100000 {told('card.blocked', 'unblocked')}",
        "has_each_event_once",
        "position of version",
    ),
    Corruption(
        "a note without an event",
        "INSERT INTO unpublished (position) VALUES (123456)",
        "unpublished_events_exist",
        "event of",
    ),
    Corruption(
        "a repeat without an answer",
        f"UPDATE repeats SET event_id = {NOBODY}",
        "repeats_have_their_answer",
        "answer of repeats",
    ),
    Corruption(
        "an event that is never published",
        "UPDATE outbox SET created_at = '2026-01-01T00:00:00.000Z' WHERE position = (SELECT"
        " min(position) FROM unpublished)",
        "events_are_published",
        "publication of event",
    ),
    Corruption(
        "a key that is gone",
        "DELETE FROM idempotency_keys WHERE event_id = (SELECT id FROM outbox"
        f" {told('card.updated', 'updated')})",
        "events_have_their_key",
        "key of event",
    ),
    Corruption(
        "a key without an event",
        f"INSERT INTO idempotency_keys VALUES ('{ACCOUNT}', 'id/x', repeat('0', 64), {NOBODY},"
        f" {LATER})",
        "keys_have_their_answer",
        "answer",
    ),
    Corruption(
        "a key that points at another's event",
        "UPDATE idempotency_keys SET event_id = (SELECT id FROM outbox"
        f" {told('card.updated', 'renamed')}) WHERE event_id = (SELECT id FROM outbox"
        f" {told('card.updated', 'updated')})",
        "keys_have_their_answer",
        "event_id",
    ),
    Corruption(
        "a key of another account",
        f"UPDATE idempotency_keys SET account_id = '{OTHER}' WHERE event_id ="
        f" (SELECT id FROM outbox {told('card.updated', 'updated')})",
        "keys_have_their_answer",
        "account_id of its answer",
    ),
    Corruption(
        "a digest that isn't one",
        "UPDATE idempotency_keys SET digest = 'x' WHERE event_id = (SELECT id FROM outbox"
        f" {told('card.updated', 'updated')})",
        "keys_have_their_answer",
        "digest",
    ),
    Corruption(
        "another's digest",
        "UPDATE idempotency_keys SET digest = (SELECT digest FROM idempotency_keys"
        f" WHERE event_id = (SELECT id FROM outbox {told('card.updated', 'renamed')}))"
        f" WHERE event_id = (SELECT id FROM outbox {told('card.updated', 'updated')})",
        "keys_have_their_answer",
        "digest",
    ),
    Corruption(
        "a key of another day",
        f"UPDATE idempotency_keys SET created_at = {LATER} WHERE event_id = (SELECT id FROM outbox"
        f" {told('card.updated', 'updated')})",
        "keys_have_their_answer",
        "created_at",
    ),
]
COMPARED = (
    tables.batches,
    tables.cards,
    tables.chunks,
    tables.file_parts,
    tables.files,
    tables.holds,
    tables.idempotency_keys,
    tables.jobs,
    tables.outbox,
    tables.pin_attempts,
    tables.pins,
    tables.repeats,
    tables.reserved_card_ids,
    tables.tokens,
    tables.transactions,
    tables.unpublished,
)
"""The tables that are compared. Not the others: dead letters, rules of accounts and what runs."""


def other(column: Column[Any]) -> str:
    """Return SQL for another value of the column's type than it has."""
    name, kind = column.name, column.type
    if isinstance(kind, EnumText):
        words: type[StrEnum] = kind.enum
        first, second, *_ = words
        return f"CASE {name} WHEN '{first}' THEN '{second}' ELSE '{first}' END"
    if isinstance(kind, Uuid):
        return f"'ffffffff' || substr(coalesce({name}, {NOBODY}), 9)"
    if isinstance(kind, UtcTime):
        return f"CASE {name} WHEN {LATER} THEN {EARLIER} ELSE {LATER} END"
    if isinstance(kind, JsonText):
        return "'{\"other\":1}'"
    if isinstance(kind, JsonLine):
        return f"replace({name}, '\"time\":', '\"times\":')"
    if kind is Flag:
        return f"1 - coalesce({name}, 0)"
    if kind is WholeNumber:
        return f"coalesce({name}, 0) + 1000"
    return f"coalesce({name} || 'x', 'x' || rowid)"


CORRUPTIONS = [
    *CARD_CORRUPTIONS,
    *MONEY_CORRUPTIONS,
    *CODE_CORRUPTIONS,
    *BATCH_CORRUPTIONS,
    *NAME_CORRUPTIONS,
    *EVENT_CORRUPTIONS,
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def populated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A healthy database that nothing is changed in for good."""
    with _empty(request, tmp_path_factory) as url:
        engine = open_engine(url)
        populate(engine)
        if request.param == "postgresql":  # here, as it takes longer than to find a difference
            with engine.begin() as connection:
                for statement in connection.execute(text(_WITHOUT_CONSTRAINTS)).scalars().all():
                    connection.execute(text(statement))
        yield engine
        engine.dispose()


@contextmanager
def _empty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("reconcile") / "cards.db"
        template: Path = request.getfixturevalue("sqlite_template")
        copyfile(template, path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgres_server")
    with servers.database(server, template=request.getfixturevalue("postgres_template")) as url:
        yield url


@contextmanager
def corruptible(engine: Engine) -> Iterator[Connection]:
    """Open a transaction in which no constraint and no trigger holds; roll it back."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if engine.dialect.name == "sqlite":
            for pragma in ("ignore_check_constraints = ON", "foreign_keys = OFF"):
                driver.execute(f"PRAGMA {pragma}")
        with connection.begin() as transaction:
            for statement in connection.execute(text(_LET_GO[engine.dialect.name])).scalars().all():
                connection.execute(text(statement))
            yield connection
            transaction.rollback()
        if engine.dialect.name == "sqlite":
            connection.invalidate()


_LET_GO = {
    "sqlite": "SELECT 'DROP TRIGGER ' || name FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT 'SET LOCAL session_replication_role = replica'",
}
_WITHOUT_CONSTRAINTS = (
    "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)"
    " FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
)


def test_there_is_nothing_to_find_in_healthy_books(populated: Engine) -> None:
    with reading(populated) as connection:
        found = list(differences(connection, published_within=timedelta(hours=1)))
    assert found == []


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda one: one.name)
def test_every_corruption_is_found(corruption: Corruption, populated: Engine) -> None:
    sql = corruption.sql
    if populated.dialect.name == "sqlite":
        sql = sql.replace("repeat('0', 64)", "hex(zeroblob(32))")
    with corruptible(populated) as connection:
        changed = connection.execute(text(sql.replace(":", "\\:"))).rowcount
        found = list(differences(connection, published_within=timedelta(hours=1)))
    assert changed > 0, "nothing was corrupted"
    assert any(
        one.check == corruption.check and fnmatchcase(one.what, f"{corruption.what}*")
        for one in found
    ), found


NOT_COMPARED = {
    # The first five of an order without cards, such as one that waits for approval.
    "batches": {
        *("type", "originated_by", "card_list", "options", "recipients"),
        *("pin_recipients", "last_error", "producer"),
    },
    # Whether a chunk is done is compared, not when it was.
    "chunks": {"done_at", "encrypted_secrets", "refused"},
    "files": {"written_at", "last_error", "attempts", "next_attempt_at"},
    # A removal has no event at its end. The chunks of a job are deleted when it has ended.
    "jobs": {
        *("created_by", "originated_by", "expires_at", "last_activity_at", "last_progress_at"),
        *("chunk_cards", "done", "ended_at"),
    },
    # The number of an attempt without a card is compared: it is 0.
    "pin_attempts": {"id", "number", "created_at"},
    "pins": {"kid", "digest"},
    "repeats": {"command_id", "mark"},
    # The end of a token that was spent: no later event shows it.
    "tokens": {
        "kid",
        "digest",
        "expires_at",
        "metadata",
        "issued_expires_at",
        "issued_expires_after_transaction",
    },
    "unpublished": {"again"},
}
"""The columns of which there is no second copy in the database, at least in some rows."""
ROW_BY_ROW = (
    tables.batches,
    tables.chunks,
    tables.files,
    tables.jobs,
    tables.pin_attempts,
    tables.tokens,
)
"""Tables whose rows are compared in different ways, by their states, and so are changed one by one;
in the others, all rows are changed together."""


def different_rows(connection: Connection, table: Table) -> list[int]:
    """Return the rowid of one row for each state that rows of the table are in."""
    states = [
        f"{column.name} IS NULL" if isinstance(column.type, UtcTime) else column.name
        for column in table.columns
        if isinstance(column.type, EnumText)
        or column.type is Flag
        or (isinstance(column.type, UtcTime) and column.nullable)
    ]
    one_each = f"SELECT min(rowid) FROM {table.name} GROUP BY {', '.join(states)}"
    return list(connection.exec_driver_sql(one_each).scalars())


@pytest.mark.parametrize("populated", ["sqlite"], indirect=True)
@pytest.mark.parametrize("table", COMPARED, ids=lambda table: table.name)
def test_every_column_is_compared_or_listed(table: Table, populated: Engine) -> None:
    """A column that is added to a table has to be compared, or listed above and in the guide."""
    changes = ["TRUE"]
    if table in ROW_BY_ROW:
        with reading(populated) as connection:
            changes = [f"rowid = {id}" for id in different_rows(connection, table)]
    unnoticed = set()
    with corruptible(populated) as connection:
        for column, where in product(table.columns, changes):
            if column.name not in unnoticed:
                with connection.begin_nested() as savepoint:
                    changed = f"UPDATE {table.name} SET {column.name} = {other(column)}"
                    connection.exec_driver_sql(f"{changed} WHERE {where}")
                    if not is_noticed(connection, table):
                        unnoticed.add(column.name)
                    savepoint.rollback()
    assert unnoticed == NOT_COMPARED.get(table.name, set())


def is_noticed(connection: Connection, table: Table) -> bool:
    """Say whether there is a difference. The pass over this table comes first: it finds most."""
    own = {
        tables.files: orders.check_files,
        tables.jobs: orders.check_jobs,
        tables.tokens: ids.check_tokens,
    }
    first = own.get(table, orders.check_batches)
    reader = Reader(connection, lambda *_: None, Differences(limit=1))
    first(reader)
    return bool(reader.found) or bool(differences(connection, limit=1))


def test_every_event_of_a_card_happens_in_the_healthy_books(populated: Engine) -> None:
    """So what is declared of each in CHANGES is compared with what the event does to a card."""
    with reading(populated) as connection:
        types = set(connection.execute(select(tables.outbox.c.type).distinct()).scalars())
    assert {event.type for event in get_args(CardEvent)} - types == set()


def test_what_is_committed_meanwhile_is_no_difference(engine: Engine) -> None:
    tell = Teller(engine, plain_issuer())
    load = {"currency": "NOK", "amount": 1_000}
    tell.done("cards.create", card_id="A", **load)
    commits = 0

    def commit(_pass: str, _done: int, _total: int) -> None:
        nonlocal commits
        commits += 1
        name = f"A{commits}"
        tell.done("cards.create", card_id=name, **load)
        tell.done("cards.transfer", card_id="A", to_card_id=name, amount=1, ref_id=name)
        tell.move(name, "h", 5, pending=True)
        tell.done("cards.update", card_id="A", name=f"{commits} commits")

    with snapshot(engine) as connection:
        assert list(differences(connection, commit)) == []
    assert commits > 10
    with snapshot(engine) as connection:
        assert list(differences(connection)) == []


def test_a_snapshot_changes_nothing(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with snapshot(engine) as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(text("DELETE FROM idempotency_keys"))
    engine.dispose()


def test_slices_of_three_rows_join_without_a_gap(
    populated: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each card, key and event is read, however few are read at a time."""
    for module in ("reading", "histories", "ids", "orders"):
        monkeypatch.setattr(f"card_worker.storage.reconcile.{module}.ROWS", 3)
    with corruptible(populated) as connection:
        assert list(differences(connection)) == []
        connection.execute(text("UPDATE cards SET blocked = NOT blocked"))
        found = {one.subject for one in differences(connection) if one.what == "blocked"}
        names = set(connection.execute(text("SELECT card_id FROM cards")).scalars())
        assert found == names
