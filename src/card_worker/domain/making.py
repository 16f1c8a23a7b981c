"""What cards are made with: whether a token or a PIN of that kind may be, and for whom."""

from card_worker.contracts.enums import CardType, Reason
from card_worker.contracts.events import Problem
from card_worker.contracts.secrets import BatchOptions, PinOptions
from card_worker.domain.case import recipients
from card_worker.domain.events import Wanted
from card_worker.domain.refusal import Refused
from card_worker.domain.rows import Account, CardKey
from card_worker.secrets.formats import FOUR_DIGITS, PinFormat, TokenFormat


def secrets_wanted(
    account: Account,
    cards: tuple[tuple[CardKey, CardType], ...],
    options: BatchOptions,
    seal_to: tuple[str, ...] | None,
    *,
    file: str | None = None,
    seal_pins_to: tuple[str, ...] | None = None,
) -> Wanted | None:
    """Return the secrets that new cards are made with. Raises Refused."""
    token, pin = options.card_token, options.pin
    if token is None and pin is None:
        return None
    at = "" if file is None else "options."
    if pin is not None:
        check_pin_format(f"{at}pin.format", pin)
    if token is not None:
        field = f"{at}card_token.format"
        check_token_format(field, token.format, with_pin=pin is not None)
    return Wanted(
        account_id=account.account_id,
        cards=cards,
        recipients=recipients(account, seal_to),
        has_token=token is not None,
        token=token.format if token is not None else None,
        pin=pin_format(pin),
        file=file,
        pin_recipients=seal_pins_to,
    )


def check_token_format(field: str, format: TokenFormat | None, *, with_pin: bool) -> None:
    weakness = None if format is None else format.weakness(with_pin=with_pin)
    if weakness is not None:
        raise Refused(Reason.FORMAT_INVALID, Problem(field=field, message=weakness))


def check_pin_format(field: str, pin: PinOptions) -> None:
    weakness = (pin.format or FOUR_DIGITS).weakness
    if weakness is not None:
        raise Refused(Reason.FORMAT_INVALID, Problem(field=field, message=weakness))


def pin_format(pin: PinOptions | None) -> PinFormat | None:
    return None if pin is None else pin.format or FOUR_DIGITS
