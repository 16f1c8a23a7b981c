"""Queries: what a producer may look at. The answer goes to the Celery result alone; no event."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StrictInt, StrictStr

from card_worker.contracts import keys
from card_worker.contracts.about import AboutAccount
from card_worker.contracts.commands import ByToken, Queue
from card_worker.contracts.fields import Name

ROWS_MAX = 500


class GetCard(ByToken):
    """Look at a card as it is now."""

    command: Literal["cards.get"] = "cards.get"

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


class ListTransactions(ByToken):
    """Look at what moved a card's money, the first movement first."""

    command: Literal["transactions.list"] = "transactions.list"
    limit: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] = Field(
        100, description="At most so many"
    )
    cursor: Annotated[StrictStr, Field(pattern=r"^[0-9]{1,18}$")] | None = Field(
        None, description="The next_cursor of the answer before"
    )

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


class GetBatch(AboutAccount):
    """Look at how far a batch has come."""

    command: Literal["batches.get"] = "batches.get"
    batch_id: Name = Field(description="What its order called it, or the command_id of that")

    @property
    def key(self) -> str:
        return keys.query(self.command, self.command_id)


Look: TypeAlias = GetCard | ListTransactions
"""What looks at a card, and is let in as a command is."""
Query: TypeAlias = Look | GetBatch

QUERIES: dict[str, type[Query]] = {
    "cards.get": GetCard,
    "transactions.list": ListTransactions,
    "batches.get": GetBatch,
}
"""The queries by the name of their task. They wait where commands do, behind what came before."""

QUERY_QUEUES: dict[str, str] = dict.fromkeys(QUERIES, Queue.CARDS)
