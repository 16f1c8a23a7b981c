"""The vault: the keys of this installation, and what they make of tokens and PINs in commands."""

from collections.abc import Sequence
from uuid import UUID

from card_worker.secrets.peppers import Hash, Peppers
from card_worker.secrets.sealing import NotOpened, open_sealed
from card_worker.secrets.secret import Secret, is_sealed


class GivenToken(Secret):
    """The token in a command, with its hash for each pepper, the newest first."""

    __slots__ = ("hashes",)

    def __init__(self, value: str, hashes: Sequence[Hash]) -> None:
        super().__init__(value)
        self.hashes = tuple(hashes)

    @property
    def newest(self) -> Hash:
        return self.hashes[0]

    @property
    def fingerprint(self) -> str:
        """Identifies the token in idempotency keys: stable until the oldest pepper is removed."""
        return self.hashes[-1].digest


class GivenPin(Secret):
    """The PIN in a command."""

    __slots__ = ("_peppers",)

    def __init__(self, value: str, peppers: Peppers) -> None:
        super().__init__(value)
        self._peppers = peppers

    def opens(self, card: UUID, stored: Hash) -> bool:
        """Return whether it is the card's PIN. Takes the same time if it isn't."""
        return self._peppers.verify_pin(card, stored, self.reveal())

    def hash(self, card: UUID) -> Hash:
        """Return its hash with the newest pepper."""
        return self._peppers.hash_pin(card, self.reveal())


class Vault:
    """The peppers of this installation, without which there are no tokens or no PINs.

    `identities`, private age keys, open the tokens and PINs that producers have sealed.
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
        """Return a token or PIN of a command in plain text, sealed or not. Raises NotOpened."""
        if not is_sealed(secret.reveal()):
            return secret
        if not self._identities:
            raise NotOpened("is sealed, but the worker has no COMMAND_IDENTITIES")
        plain = open_sealed(self._identities, secret.reveal().encode())
        return Secret(plain.decode(errors="replace"))

    def keyed_token(self, account_id: str, token: Secret) -> GivenToken:
        """Return a token with its hashes."""
        assert self.tokens is not None
        value = token.reveal()
        return GivenToken(value, self.tokens.token_hashes(account_id, value))

    def keyed_pin(self, pin: Secret) -> GivenPin:
        """Return a PIN that can be compared with stored ones."""
        assert self.pins is not None
        return GivenPin(pin.reveal(), self.pins)
