"""Commands on the tokens and the PIN of a card."""

from typing import Literal, TypeAlias

from pydantic import Field, StrictBool

from card_worker.contracts import keys
from card_worker.contracts.cards import METADATA, IssuesSecrets, OnCard
from card_worker.contracts.fields import RefId, Seconds, TokenId
from card_worker.contracts.metadata import Metadata
from card_worker.contracts.secrets import SEAL_TO, NeedsPins, NeedsTokens, PinOptions, Recipients
from card_worker.secrets.formats import TokenFormat


class CreateToken(IssuesSecrets):
    """Issue one more token for a card, for a limited time or for one payment."""

    command: Literal["tokens.create"] = "tokens.create"
    ref_id: RefId = Field(
        description="Your id of the token, unique among the card's tokens. It is the idempotency"
        " key, not the `command_id`."
    )
    expires_in: Seconds = Field(description="Lifetime in seconds.")
    expires_after_transaction: StrictBool = Field(
        True, description="Whether the first accepted transaction uses it up."
    )
    format: NeedsTokens[TokenFormat | None] = Field(
        None,
        validate_default=True,
        description="Format of the token. Default: `DINCARD:` and a random UUID.",
    )
    metadata: Metadata | None = Field(None, description=METADATA)
    seal_to: Recipients | None = Field(None, description=SEAL_TO)

    @property
    def key(self) -> str:
        return self._unless_dry(keys.new_token(self.card_id, self.ref_id))


class RevokeToken(OnCard):
    """Revoke a token: it can't be used any more."""

    command: Literal["tokens.revoke"] = "tokens.revoke"
    token_id: TokenId = Field(description="The `id` of the token, from an event.")


class RotatePin(IssuesSecrets):
    """Issue a new PIN for a card, or its first one."""

    command: Literal["cards.rotate_pin"] = "cards.rotate_pin"
    pin: NeedsPins[PinOptions] = Field(description="Options of the new PIN.")
    seal_to: Recipients | None = Field(None, description=SEAL_TO)


TokenCommand: TypeAlias = RotatePin | CreateToken | RevokeToken
"""A command on a token or PIN that producers may send."""
