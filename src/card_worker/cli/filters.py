"""Options that choose cards, transactions or events, and the filters that they make."""

from typing import Annotated, Any

from typer import Option

from card_worker.cli.times import read_time_option
from card_worker.contracts.enums import CardType, Status
from card_worker.money import AMOUNT_MAX
from card_worker.storage.queries import CardFilter

AccountId = Annotated[str, Option("--account", "-a", help="The account, such as T00000001.")]
OfStatus = Annotated[Status | None, Option("--status", help="Only cards with this status.")]
OfType = Annotated[CardType | None, Option("--type", help="Only cards of this type.")]
OfCustomer = Annotated[str | None, Option("--customer", help="Only cards of this customer.")]
OfBatch = Annotated[str | None, Option("--batch", help="Only cards of this batch.")]
AvailableMin = Annotated[
    int | None,
    Option(min=0, max=AMOUNT_MAX, help="Smallest available amount, in minor units."),
]
AvailableMax = Annotated[
    int | None,
    Option(min=0, max=AMOUNT_MAX, help="Largest available amount, in minor units."),
]
CreatedFrom = Annotated[
    str | None, Option(help="Earliest time of creation, such as 2026-11-22T10:00:00Z.")
]
CreatedBefore = Annotated[str | None, Option(help="Only what was created before this time.")]
ExpiresBefore = Annotated[str | None, Option(help="Only cards that expire before this time.")]


def card_filter(
    *,
    created_from: str | None,
    created_before: str | None,
    expires_before: str | None,
    **others: Any,
) -> CardFilter:
    """Return a filter for cards, with times from their options and the `others` as they are."""
    return CardFilter(
        created_from=read_time_option("--created-from", created_from),
        created_before=read_time_option("--created-before", created_before),
        expires_before=read_time_option("--expires-before", expires_before),
        **others,
    )
