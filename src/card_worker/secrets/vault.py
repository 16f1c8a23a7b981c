"""The vault: what turns the tokens and PINs that callers give into what is kept of them."""

from collections.abc import Sequence
from uuid import UUID

from card_worker.secrets.peppers import Hash, Peppers
from card_worker.secrets.sealing import NotOpened, open_sealed
from card_worker.secrets.secret import Secret, is_sealed


class GivenToken(Secret):
    """A token in a command, and under what it may be kept: an entry for each pepper."""

    __slots__ = ("hashes",)

    def __init__(self, value: str, hashes: Sequence[Hash]) -> None:
        super().__init__(value)
        self.hashes = tuple(hashes)

    @property
    def newest(self) -> Hash:
        return self.hashes[0]

    @property
    def fingerprint(self) -> str:
        """Return what stands for the token in keys: the same until the oldest pepper goes."""
        return self.hashes[-1].digest


class GivenPin(Secret):
    """A PIN in a command. Whether it is a card's, only its hash can say."""

    __slots__ = ("_peppers",)

    def __init__(self, value: str, peppers: Peppers) -> None:
        super().__init__(value)
        self._peppers = peppers

    def opens(self, card: UUID, kept: Hash) -> bool:
        """Say whether it is the card's PIN, in the same time whether it is or not."""
        return self._peppers.is_pin(card, kept, self.reveal())

    def hash(self, card: UUID) -> Hash:
        """Return what is kept of it under the newest pepper."""
        return self._peppers.hash_pin(card, self.reveal())


class Vault:
    """The peppers of this installation. Without them, there are neither tokens nor PINs.

    With `identities`, age's secret keys, it opens what producers have sealed on its way to here.
    """

    def __init__(
        self,
        tokens: Peppers | None = None,
        pins: Peppers | None = None,
        identities: Sequence[str] = (),
    ) -> None:
        self.tokens, self.pins = tokens, pins
        self._identities = identities

    def opened(self, secret: Secret) -> Secret:
        """Return a token or PIN in clear, if it came sealed. Raises NotOpened."""
        if not is_sealed(secret.reveal()):
            return secret
        if not self._identities:
            raise NotOpened("is sealed, but the worker has no COMMAND_IDENTITIES")
        plain = open_sealed(self._identities, secret.reveal().encode())
        return Secret(plain.decode(errors="replace"))

    def keyed_token(self, account_id: str, token: Secret) -> GivenToken:
        """Return a token as it can be looked for."""
        assert self.tokens is not None
        value = token.reveal()
        return GivenToken(value, self.tokens.find_token(account_id, value))

    def keyed_pin(self, pin: Secret) -> GivenPin:
        """Return a PIN as it can be compared."""
        assert self.pins is not None
        return GivenPin(pin.reveal(), self.pins)
