"""The fields by which tokens and PINs come in, or are asked for, and who may open what is made.

A worker reads commands with its vault as pydantic's context. A producer, who only writes them, has
no context: there a secret stays what it is.
"""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, StrictStr, ValidationInfo
from pydantic_core import PydanticCustomError

from card_worker.secrets.sealing import RECIPIENTS_MAX, NotOpened, read_recipients
from card_worker.secrets.secret import Secret
from card_worker.secrets.vault import Vault

Asked = TypeVar("Asked")


def keyed_token(token: Secret | None, info: ValidationInfo) -> Secret | None:
    """Return a token as a worker looks for it. Its `account_id` must have been read before."""
    account_id = info.data.get("account_id")
    if token is None or info.context is None or account_id is None:
        return token
    vault = _can_make_token(_vault(info), info)
    return vault.keyed_token(account_id, _opened(vault, token))


def keyed_pin(pin: Secret | None, info: ValidationInfo) -> Secret | None:
    """Return a PIN as a worker compares it."""
    if pin is None or info.context is None:
        return pin
    vault = _can_make_pin(_vault(info), info)
    return vault.keyed_pin(_opened(vault, pin))


def _opened(vault: Vault, secret: Secret) -> Secret:
    try:
        return vault.opened(secret)
    except NotOpened as reason:
        raise PydanticCustomError("sealed", "{why}", {"why": str(reason)}) from None


def _can_make_token(asked: Asked, info: ValidationInfo) -> Asked:
    if info.context is not None and _vault(info).tokens is None:
        raise PydanticCustomError("pepper", "is not offered: the worker has no TOKEN_PEPPERS")
    return asked


def _can_make_pin(asked: Asked, info: ValidationInfo) -> Asked:
    if info.context is not None and _vault(info).pins is None:
        raise PydanticCustomError("pepper", "is not offered: the worker has no PIN_PEPPERS")
    return asked


def _vault(info: ValidationInfo) -> Vault:
    assert isinstance(info.context, Vault)
    return info.context


def _readable(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        read_recipients(texts)
    except ValueError as problem:
        raise PydanticCustomError("recipients", "{why}", {"why": str(problem)}) from None
    return texts


NeedsTokens = Annotated[Asked, AfterValidator(_can_make_token)]
"""What only a worker with TOKEN_PEPPERS can make."""

NeedsPins = Annotated[Asked, AfterValidator(_can_make_pin)]
"""What only a worker with PIN_PEPPERS can make."""

Recipients = Annotated[
    tuple[Annotated[StrictStr, Field(json_schema_extra={"pattern": "^age1[0-9a-z]+$"})], ...],
    Field(min_length=1, max_length=RECIPIENTS_MAX, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_readable),
]
"""Who may open what is sealed: age recipients, `age1…`."""
