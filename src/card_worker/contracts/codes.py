"""What a card is made with: a token, a PIN, or both."""

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from card_worker.contracts.fields import Seconds
from card_worker.contracts.secret_fields import NeedsPins, NeedsTokens
from card_worker.secrets.formats import PinFormat, TokenFormat


class TokenBehaviour(BaseModel):
    """How long a token serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expires_in: Seconds | None = Field(None, description="Absent: as long as the card")
    expires_after_transaction: StrictBool | None = Field(
        None, description="Whether the first accepted transaction spends it; absent: no"
    )


class TokenOptions(TokenBehaviour):
    """The token that a card is made with."""

    format: TokenFormat | None = Field(None, description="Absent: DINCARD: and a UUID")


class PinOptions(BaseModel):
    """The PIN that a card is made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: PinFormat | None = Field(None, description="Absent: four digits")


class BatchOptions(BaseModel):
    """What each card of a batch is made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pin: NeedsPins[PinOptions] | None = Field(None, description="A PIN")
    card_token: NeedsTokens[TokenOptions] | None = Field(None, description="A token")
