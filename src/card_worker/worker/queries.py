"""Messages with queries: answered by the result of their task alone."""

from datetime import datetime
from functools import partial

from card_worker.attempts import Attempt, within_limits
from card_worker.contracts.commands import InvalidCommand
from card_worker.contracts.dead_letters import DeadLetterReason, Unreadable
from card_worker.contracts.message import read_query
from card_worker.contracts.queries import CardQuery, Query
from card_worker.domain.producers import QUERY_WINDOW_S, Sender, check_rights, check_time
from card_worker.domain.refusal import Refused
from card_worker.query_handler import QueryResult, answer_card_query, answer_query, refused
from card_worker.storage.engine import RegistryChanged, begin, clock, reading
from card_worker.storage.producers import read_version
from card_worker.worker.groups import record_attempts
from card_worker.worker.messages import Message, Outcome, QueryAnswered, Returned, Waiting
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked, Interrupted


class Queries:
    """Answers queries."""

    def __init__(self, resources: Resources) -> None:
        self._engine, self._vault = resources.engine, resources.issuer.vault
        self._retries, self._dead_letters = resources.retries, resources.dead_letters
        self._senders = resources.senders

    def deliver(self, message: Message) -> Outcome:
        """Answer the query in a message. Raises RegistryChanged."""
        try:
            try:
                query, sender = self._read(message)
            except Unreadable as problem:
                if not self._senders.refresh_for({problem.reason}):
                    raise
                query, sender = self._read(message)
            return QueryAnswered(self._retries.run(partial(self._answer, query, sender)))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except RegistryChanged:
            raise
        except Exception as error:
            # The query has changed nothing; the next try would fail in the same way.
            (outcome,) = self._dead_letters.dead_letter_unread([(message, error)])
            return outcome

    def _read(self, message: Message) -> tuple[Query | InvalidCommand, Sender | None]:
        sender, signed_by = self._senders.authenticate(message.signature)
        if sender is not None and message.kwargs["command_id"] != message.id:
            # Whoever sends the query again must not get its result under another id.
            detail = "the id of the task must be the command_id"
            raise Unreadable(DeadLetterReason.SIGNATURE_WRONG, detail)
        query = read_query(
            message.task,
            message.id,
            message.kwargs,
            self._vault,
            message.conditions,
            signed_by=signed_by,
        )
        return query, sender

    def _answer(self, query: Query | InvalidCommand, sender: Sender | None) -> QueryResult:
        version = self._senders.version
        if isinstance(query, CardQuery) and (query.token is not None or query.pin is not None):
            try:
                check = partial(self._check_sender, query, sender)
                record_attempts(self._engine, [query], version, check)

                def commit(_: frozenset[Attempt]) -> QueryResult:
                    with begin(self._engine, registry_version=version) as (connection, now):
                        check(now)
                        return answer_card_query(connection, query, now, sender)

                return within_limits(commit)
            except Refused as refusal:
                return refused(refusal)
        with reading(self._engine) as connection:
            if read_version(connection) != version:
                raise RegistryChanged
            try:
                if sender is not None:
                    self._check_sender(query, sender, clock(connection))
            except Refused as refusal:
                return refused(refusal)
            return answer_query(connection, query)

    def _check_sender(
        self, query: Query | InvalidCommand, sender: Sender | None, now: datetime
    ) -> None:
        """Check key, rights and time of a signed query. Raises Refused and RegistryChanged."""
        if sender is None:
            return
        if not sender.key.is_valid(now):
            raise RegistryChanged
        check_rights(query, sender)
        check_time(sender, now, window_s=QUERY_WINDOW_S, ahead_s=QUERY_WINDOW_S)
