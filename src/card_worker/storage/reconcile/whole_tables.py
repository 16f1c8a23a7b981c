"""Comparisons of whole tables, made by the database: missing rows, counts and simple conditions."""
# ruff: noqa: S608  # the SQL is made of constants

from sqlalchemy import text

from card_worker.contracts.enums import Action, BatchState, EventType, Reason, TransactionType
from card_worker.domain.rows import Outcome
from card_worker.storage.reconcile.reading import Reader

_OWNERS = (
    ("rows_have_their_card", "card", "transactions.card", "cards.id"),
    ("unpublished_events_exist", "event", "unpublished.position", "outbox.position"),
    ("repeats_have_their_answer", "answer", "repeats.event_id", "outbox.id"),
    ("chunks_have_their_job", "job", "chunks.job", "jobs.id"),
    ("parts_have_their_file", "file", "file_parts.name", "files.name"),
)
"""Check, name of the owner, a column that names the owner, and the column that it names."""
_STATED_BY = (
    (f"state = '{BatchState.CANCELLED}'", EventType.BATCH_CANCELLED),
    ("completed_at IS NOT NULL", EventType.BATCH_COMPLETED),
    ("approved_by IS NOT NULL", EventType.BATCH_APPROVED),
    (f"state = '{BatchState.AWAITING_APPROVAL}'", EventType.BATCH_AWAITING_APPROVAL),
)
"""A condition, and the event that each batch has for which it is true."""
_EXPECTED_EVENTS = " UNION ALL ".join(
    f"SELECT account_id, batch_id, '{event}' AS type FROM batches WHERE {condition}"
    for condition, event in _STATED_BY
)
_CODES = """(SELECT 'token' AS what, id, account_id, card, kid, digest, TRUE AS is_code FROM tokens
    UNION ALL SELECT 'PIN', id, account_id, id, kid, digest, TRUE FROM pins
    UNION ALL SELECT 'PIN attempt', id, account_id, card, NULL, NULL, FALSE FROM pin_attempts
        WHERE card IS NOT NULL) AS codes"""
# Nothing tells whether an answer without its content was for a wrong PIN.
_WRONG_PIN = (
    f"""(event NOT LIKE '{{"specversion"%' OR event LIKE '%"reason":"{Reason.CARD_NOT_USABLE}"%')"""
)
_COUNTED = """(SELECT account_id, batch_id, count(*) AS cards FROM cards
    WHERE batch_id IS NOT NULL GROUP BY account_id, batch_id) AS counted"""


def _listed(*words: str) -> str:
    return ", ".join(f"'{word}'" for word in words)


CHECKS = {
    **{
        check: f"""
        SELECT DISTINCT '', '{what} ' || {column}, '{what} of {column.split(".")[0]}', NULL, 'one'
        FROM {column.split(".")[0]}
        WHERE NOT EXISTS (SELECT 1 FROM {owner.split(".")[0]} WHERE {owner} = {column})"""
        for check, what, column, owner in _OWNERS
    },
    "refunds_follow_drawdowns": f"""
        WITH RECURSIVE refunds AS (
            SELECT refund.id, refund.account_id, refund.card, refund.parent_id,
                drawdown.card AS origin
            FROM transactions AS refund LEFT JOIN transactions AS drawdown
                ON drawdown.id = refund.parent_id AND drawdown.type = '{TransactionType.DRAWDOWN}'
                AND drawdown.account_id = refund.account_id
            WHERE refund.type = '{TransactionType.FUND}' AND refund.parent_id IS NOT NULL),
        chain AS (SELECT origin, origin AS card FROM refunds WHERE origin <> card
            UNION SELECT origin, cards.replaced_by FROM chain JOIN cards ON cards.id = chain.card
                WHERE cards.replaced_by IS NOT NULL)
        SELECT account_id, 'transaction ' || id, 'parent_id', CAST(parent_id AS TEXT),
            'a drawdown of the card, or of one that it has replaced' FROM refunds
        WHERE origin IS NULL OR origin <> card AND NOT EXISTS (SELECT 1 FROM chain
            WHERE chain.origin = refunds.origin AND chain.card = refunds.card)""",
    "refunds_are_no_larger": f"""
        SELECT drawdown.account_id, 'transaction ' || drawdown.id, 'refunded of it',
            CAST(sum(refund.amount) AS TEXT), 'at most ' || drawdown.amount
        FROM transactions AS drawdown JOIN transactions AS refund
            ON refund.parent_id = drawdown.id AND refund.type = '{TransactionType.FUND}'
        GROUP BY drawdown.account_id, drawdown.id, drawdown.amount
        HAVING sum(refund.amount) > drawdown.amount""",
    "holds_have_their_transaction": f"""
        SELECT '', 'hold ' || id, 'pending transaction of the hold', NULL, 'one' FROM holds
        WHERE NOT EXISTS (SELECT 1 FROM transactions
            WHERE transactions.id = holds.id AND type = '{TransactionType.PENDING_CAPTURE}')""",
    "codes_have_their_card": f"""
        SELECT codes.account_id, what || ' ' || codes.id,
            what || CASE WHEN cards.id IS NULL THEN '''s card' ELSE ': account_id' END,
            CASE WHEN cards.id IS NOT NULL THEN codes.account_id END,
            coalesce(cards.account_id, 'one card')
        FROM {_CODES} LEFT JOIN cards ON cards.id = codes.card
        WHERE cards.id IS NULL OR codes.account_id <> cards.account_id""",
    "codes_are_flagged_on_their_card": f"""
        SELECT codes.account_id, what || ' ' || codes.id, 'has_codes of card ' || card_id,
            'false', 'true'
        FROM {_CODES} JOIN cards ON cards.id = codes.card WHERE is_code AND NOT has_codes""",
    "flagged_cards_have_codes": """
        SELECT account_id, card_id, 'has_codes', 'true',
            'false: the card has neither a token nor a PIN'
        FROM cards JOIN (SELECT id FROM cards WHERE has_codes
            EXCEPT SELECT card FROM tokens EXCEPT SELECT id FROM pins) AS without
        ON without.id = cards.id""",
    "codes_are_hashed": f"""
        SELECT account_id, what || ' ' || id, what || ': digest',
            length(digest) || ' characters, pepper ' || kid,
            'at least 32 characters, and the name of a pepper'
        FROM {_CODES} WHERE length(digest) < 32 OR kid = ''""",
    "pin_attempts_have_their_outcome": f"""
        SELECT pin_attempts.account_id, 'PIN attempt ' || pin_attempts.id, 'outcome', outcome,
            CASE WHEN {_WRONG_PIN} THEN 'wrong or cleared' ELSE 'cleared' END
        FROM pin_attempts JOIN outbox ON outbox.id = pin_attempts.id
        WHERE outcome = '{Outcome.OPEN}' OR outcome = '{Outcome.WRONG}' AND NOT {_WRONG_PIN}
        UNION ALL SELECT pin_attempts.account_id, 'PIN attempt ' || pin_attempts.id, 'account_id',
            pin_attempts.account_id, outbox.account_id
        FROM pin_attempts JOIN outbox ON outbox.id = pin_attempts.id
        WHERE pin_attempts.account_id <> outbox.account_id
        UNION ALL SELECT account_id, 'PIN attempt ' || id, 'outcome', outcome,
            '{" or ".join(Outcome)}'
        FROM pin_attempts WHERE outcome NOT IN ({_listed(*Outcome)})""",
    "pin_attempts_are_numbered": """
        SELECT '', 'card ' || card, 'PIN attempts with number ' || number, count(*), 1
        FROM pin_attempts WHERE card IS NOT NULL GROUP BY card, number HAVING count(*) > 1
        UNION ALL SELECT account_id, 'PIN attempt ' || id, 'number, without a card', number, 0
        FROM pin_attempts WHERE card IS NULL AND number <> 0""",
    "spent_tokens_were_used": """
        SELECT account_id, 'token ' || id, 'spent_at', CAST(spent_at AS TEXT),
            'the time of a transaction; none if the token was revoked, or is not for one payment'
        FROM tokens WHERE spent_at IS NOT NULL AND (
            NOT expires_after_transaction OR revoked_at IS NOT NULL
            OR NOT EXISTS (SELECT 1 FROM transactions
                WHERE transactions.card = tokens.card AND created_at = spent_at))""",
    "jobs_are_done_in_turn": f"""
        SELECT jobs.account_id, jobs.batch_id || ', job ' || jobs.id, 'begun',
            'sequence ' || jobs.sequence, 'after the end of ' || min(earlier.sequence)
        FROM jobs JOIN jobs AS earlier ON earlier.account_id = jobs.account_id
            AND earlier.batch_id = jobs.batch_id AND earlier.sequence < jobs.sequence
        WHERE earlier.ended_at IS NULL
            AND earlier.action <> '{Action.MAKE}' AND jobs.action <> '{Action.MAKE}'
            AND (jobs.ended_at IS NOT NULL
                OR jobs.open_chunks * jobs.chunk_cards < jobs.last - jobs.first + 1)
        GROUP BY jobs.account_id, jobs.batch_id, jobs.id, jobs.sequence""",
    "cards_have_their_batch": f"""
        SELECT counted.account_id, counted.batch_id, CASE WHEN created IS NULL
            THEN 'batch that cards name' ELSE 'created' END, created, cards || ' cards name it'
        FROM {_COUNTED} LEFT JOIN batches ON counted.account_id = batches.account_id
            AND counted.batch_id = batches.batch_id
        WHERE created IS NULL OR created <> cards
            AND NOT (state = '{BatchState.CANCELLED}' AND completed_at IS NULL)""",
    "batch_states_have_their_event": f"""
        SELECT account_id, batch_id, 'event ' || type, NULL, 'one, or another state'
        FROM ({_EXPECTED_EVENTS} EXCEPT SELECT account_id, subject, type FROM outbox
            WHERE type IN ({_listed(*(event for _, event in _STATED_BY))})) AS missing""",
    "batches_count_their_jobs": """
        SELECT account_id, batch_id, 'jobs', jobs || ' jobs, ' || sequences ||
            ' different sequences above 0, the highest ' || highest, job_count || ' of each'
        FROM (SELECT batches.account_id, batches.batch_id, job_count - pruned_jobs AS job_count,
            count(jobs.id) AS jobs,
            count(DISTINCT CASE WHEN jobs.sequence > 0 THEN jobs.sequence END) AS sequences,
            coalesce(max(jobs.sequence), 0) - CASE WHEN max(jobs.sequence) > 0
                THEN pruned_jobs ELSE 0 END AS highest
            FROM batches LEFT JOIN jobs ON jobs.account_id = batches.account_id
                AND jobs.batch_id = batches.batch_id
            GROUP BY batches.account_id, batches.batch_id, job_count, pruned_jobs) AS counted
        WHERE jobs <> job_count OR sequences <> job_count OR highest <> job_count""",
}
"""By check, what selects the account, subject, what, actual and expected value of a difference."""


def check_whole_tables(reader: Reader) -> None:
    for done, (check, sql) in enumerate(CHECKS.items()):
        reader.progress("whole tables", done, len(CHECKS))
        for account_id, subject, what, actual, expected in reader.stream(text(sql)):
            reader.found.add(check, account_id, subject, (what, actual, expected))
