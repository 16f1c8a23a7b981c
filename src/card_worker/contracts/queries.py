"""Queries. The answer is the result of the Celery task; there is no event."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StrictInt, StrictStr

from card_worker.contracts import keys
from card_worker.contracts.base import Request
from card_worker.contracts.batches import BATCH_ID
from card_worker.contracts.commands import Queue
from card_worker.contracts.enums import CardType, Status
from card_worker.contracts.fields import Name, Time
from card_worker.contracts.transactions import ByCardOrToken
from card_worker.money import Amount

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


class ListCards(Request):
    """Return cards of the account, ordered by `card_id`, that match all given filters.

    A page may have fewer cards than `limit`, even none, and still a `next_cursor`: each looks at a
    limited number of cards.
    """

    command: Literal["cards.list"] = "cards.list"
    status: Status | None = Field(None, description="Only cards with this status.")
    type: CardType | None = Field(None, description="Only cards of this type.")
    customer_id: Name | None = Field(None, description="Only cards of this customer.")
    batch_id: Name | None = Field(None, description="Only cards of this batch.")
    available_min: Amount | None = Field(
        None, description="Only cards with at least this available amount, in minor units."
    )
    available_max: Amount | None = Field(
        None, description="Only cards with at most this available amount, in minor units."
    )
    created_from: Time | None = Field(None, description="Only cards created at this time or later.")
    created_before: Time | None = Field(None, description="Only cards created before this time.")
    expires_before: Time | None = Field(
        None, description="Only cards that expire before this time."
    )
    limit: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] = Field(
        100, description="The largest number of cards to return."
    )
    cursor: Name | None = Field(
        None, description="The `next_cursor` of the page before. Default: the first page."
    )

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


CardQuery: TypeAlias = GetCard | ListTransactions
"""A query about a card. It has the same access rules as a command."""
Query: TypeAlias = CardQuery | GetBatch | ListCards

QUERIES: dict[str, type[Query]] = {
    "cards.get": GetCard,
    "cards.list": ListCards,
    "transactions.list": ListTransactions,
    "batches.get": GetBatch,
}
"""The queries by the name of their task. They wait in the queue of the commands."""

QUERY_QUEUES: dict[str, str] = dict.fromkeys(QUERIES, Queue.CARDS)
