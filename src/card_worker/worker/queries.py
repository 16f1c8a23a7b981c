"""Messages with queries: answered by the result of their task alone."""

from functools import partial

from card_worker.contracts.commands import InvalidCommand
from card_worker.contracts.message import read_query
from card_worker.contracts.queries import CardQuery, Query
from card_worker.query_handler import QueryResult, answer_card_query, answer_query
from card_worker.storage.engine import begin, reading
from card_worker.worker.groups import record_attempts
from card_worker.worker.messages import Message, Outcome, QueryAnswered, Returned, Waiting
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked, Interrupted


class Queries:
    """Answers queries."""

    def __init__(self, resources: Resources) -> None:
        self._engine, self._vault = resources.engine, resources.issuer.vault
        self._retries, self._dead_letters = resources.retries, resources.dead_letters

    def deliver(self, message: Message) -> Outcome:
        """Answer the query in a message."""
        try:
            query = read_query(
                message.task, message.id, message.kwargs, self._vault, message.conditions
            )
            return QueryAnswered(self._retries.run(partial(self._answer, query)))
        except Interrupted:
            return Returned()
        except Blocked:
            return Waiting()
        except Exception as error:
            # The query has changed nothing; the next try would fail in the same way.
            return self._dead_letters.dead_letter_unread(message, error)

    def _answer(self, query: Query | InvalidCommand) -> QueryResult:
        if isinstance(query, CardQuery) and (query.token is not None or query.pin is not None):
            record_attempts(self._engine, [query])
            with begin(self._engine) as (connection, now):
                return answer_card_query(connection, query, now)
        with reading(self._engine) as connection:
            return answer_query(connection, query)
