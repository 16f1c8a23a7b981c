"""Tokens and PINs in commands: those that are sent, those that are to be made, and their formats.

A worker reads commands with its vault as pydantic's context, and replaces each token and PIN by
its hashes. A producer has no context: there a secret stays as it is.
"""

from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from card_worker.contracts.fields import Seconds
from card_worker.secrets.formats import PinFormat, TokenFormat
from card_worker.secrets.sealing import RECIPIENTS_MAX, NotOpened, read_recipients
from card_worker.secrets.secret import Secret
from card_worker.secrets.vault import Vault

Value = TypeVar("Value")


def keyed_token(token: Secret | None, info: ValidationInfo) -> Secret | None:
    """Return a token with its hashes. The field `account_id` must be validated before it."""
    account_id = info.data.get("account_id")
    if token is None or info.context is None or account_id is None:
        return token
    vault = _can_make_token(_vault(info), info)
    return vault.keyed_token(account_id, _opened(vault, token))


def keyed_pin(pin: Secret | None, info: ValidationInfo) -> Secret | None:
    """Return a PIN with the keys that its hash is made with."""
    if pin is None or info.context is None:
        return pin
    vault = _can_make_pin(_vault(info), info)
    return vault.keyed_pin(_opened(vault, pin))


def _opened(vault: Vault, secret: Secret) -> Secret:
    try:
        return vault.opened(secret)
    except NotOpened as reason:
        raise PydanticCustomError("sealed", "{why}", {"why": str(reason)}) from None


def _can_make_token(value: Value, info: ValidationInfo) -> Value:
    if info.context is not None and _vault(info).tokens is None:
        raise PydanticCustomError("pepper", "is not supported: the worker has no TOKEN_PEPPERS")
    return value


def _can_make_pin(value: Value, info: ValidationInfo) -> Value:
    if info.context is not None and _vault(info).pins is None:
        raise PydanticCustomError("pepper", "is not supported: the worker has no PIN_PEPPERS")
    return value


def _vault(info: ValidationInfo) -> Vault:
    assert isinstance(info.context, Vault)
    return info.context


def _readable(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        read_recipients(texts)
    except ValueError as problem:
        raise PydanticCustomError("recipients", "{why}", {"why": str(problem)}) from None
    return texts


NeedsTokens = Annotated[Value, AfterValidator(_can_make_token)]
"""A field that only a worker with TOKEN_PEPPERS accepts."""

NeedsPins = Annotated[Value, AfterValidator(_can_make_pin)]
"""A field that only a worker with PIN_PEPPERS accepts."""

Recipients = Annotated[
    tuple[Annotated[StrictStr, Field(json_schema_extra={"pattern": "^age1[0-9a-z]+$"})], ...],
    Field(min_length=1, max_length=RECIPIENTS_MAX, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_readable),
]
"""Who can open what is sealed: age recipients, `age1…`."""

SEAL_TO = (
    "age recipients who can open the new token and PIN. Default: those of the account, if it has"
    " any; otherwise this is required."
)


class TokenBehaviour(BaseModel):
    """How long a token can be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expires_in: Seconds | None = Field(
        None, description="Lifetime in seconds. Default: as long as the card."
    )
    expires_after_transaction: StrictBool | None = Field(
        None, description="Whether the first accepted transaction uses it up. Default: no."
    )


class TokenOptions(TokenBehaviour):
    """The token that a new card gets."""

    format: TokenFormat | None = Field(
        None, description="Format of the token. Default: `DINCARD:` and a random UUID."
    )


class PinOptions(BaseModel):
    """The PIN that a card gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: PinFormat | None = Field(
        None, description="Format of the PIN. Default: four random digits."
    )


class BatchOptions(BaseModel):
    """The token and the PIN that each card of a batch gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pin: NeedsPins[PinOptions] | None = Field(
        None, description="Give each card a PIN. Default: none."
    )
    card_token: NeedsTokens[TokenOptions] | None = Field(
        None, description="Give each card a token. Default: none."
    )
