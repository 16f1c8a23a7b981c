"""Queries: what a producer may look at. The answer goes to the Celery result alone; no event."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StrictInt, StrictStr

from card_worker.contracts.commands import AboutAccount, Queue
from card_worker.contracts.fields import Name, NotOffered

ROWS_MAX = 500


class GetCard(AboutAccount):
    """Look at a card as it is now."""

    command: Literal["cards.get"] = "cards.get"
    card_id: Name = Field(description="What the caller calls the card")
    token: NotOffered = None
    pin: NotOffered = None


class ListTransactions(AboutAccount):
    """Look at what moved a card's money, the first movement first."""

    command: Literal["transactions.list"] = "transactions.list"
    card_id: Name = Field(description="What the caller calls the card")
    limit: Annotated[StrictInt, Field(ge=1, le=ROWS_MAX)] = Field(
        100, description="At most so many"
    )
    cursor: Annotated[StrictStr, Field(pattern=r"^[0-9]{1,18}$")] | None = Field(
        None, description="The next_cursor of the answer before"
    )


class GetBatch(AboutAccount):
    """Look at how far a batch has come."""

    command: Literal["batches.get"] = "batches.get"
    batch_id: Name = Field(description="What its order called it, or the command_id of that")


Query: TypeAlias = GetCard | ListTransactions | GetBatch

QUERIES: dict[str, type[Query]] = {
    "cards.get": GetCard,
    "transactions.list": ListTransactions,
    "batches.get": GetBatch,
}
"""The queries by the name of their task. They wait where commands do, behind what came before."""

QUERY_QUEUES: dict[str, str] = dict.fromkeys(QUERIES, Queue.CARDS)
