"""Queries. The answer is the result of the Celery task; there is no event."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StrictInt, StrictStr

from card_worker.contracts import keys
from card_worker.contracts.base import Request
from card_worker.contracts.batches import BATCH_ID
from card_worker.contracts.commands import Queue
from card_worker.contracts.fields import Name
from card_worker.contracts.transactions import ByCardOrToken

ROWS_MAX = 500


class GetCard(ByCardOrToken):
    """Return a card as it is now."""

    command: Literal["cards.get"] = "cards.get"

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


class ListTransactions(ByCardOrToken):
    """Return the transactions of a card, the oldest first."""

    command: Literal["transactions.list"] = "transactions.list"
    limit: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] = Field(
        100, description="The largest number of transactions to return."
    )
    cursor: Annotated[StrictStr, Field(pattern=r"^[0-9]{1,18}$")] | None = Field(
        None, description="The `next_cursor` of the page before. Default: the first page."
    )

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


class GetBatch(Request):
    """Return a batch and its progress."""

    command: Literal["batches.get"] = "batches.get"
    batch_id: Name = Field(description=BATCH_ID)

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


CardQuery: TypeAlias = GetCard | ListTransactions
"""A query about a card. It has the same access rules as a command."""
Query: TypeAlias = CardQuery | GetBatch

QUERIES: dict[str, type[Query]] = {
    "cards.get": GetCard,
    "transactions.list": ListTransactions,
    "batches.get": GetBatch,
}
"""The queries by the name of their task. They wait in the queue of the commands."""

QUERY_QUEUES: dict[str, str] = dict.fromkeys(QUERIES, Queue.CARDS)
