"""The vault: the keys of this installation, and what they make of tokens and PINs in commands."""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from uuid import UUID

from card_worker.secrets.drawing import is_uuid_token, may_be_short
from card_worker.secrets.formats import PREFIX_MAX
from card_worker.secrets.peppers import Hash, Peppers
from card_worker.secrets.sealing import NotOpened, open_sealed
from card_worker.secrets.secret import Secret, is_sealed


def as_typed(value: str) -> str:
    """Return a token or PIN in the form in which it is compared.

    Full-width digits and the like become plain ones (NFKC); outer white space is removed.
    """
    return unicodedata.normalize("NFKC", value).strip()


def _without_gaps(value: str) -> str:
    """Return a token without spaces and dashes, which people add when they type a long one."""
    return "".join(char for char in value if unicodedata.category(char) not in ("Zs", "Pd"))


class GivenToken(Secret):
    """The token in a command, with the hashes by which it may be stored.

    `spellings` are the token as it was typed and, if it differs, without spaces and dashes; each as
    its hashes for all peppers, the newest first. A stored token has spaces or dashes only if its
    format has them, so that the second spelling can only be that of a token without them.
    """

    __slots__ = ("_spellings",)

    def __init__(self, value: str, *spellings: Sequence[Hash]) -> None:
        super().__init__(value)
        self._spellings = spellings

    @property
    def hashes(self) -> tuple[Hash, ...]:
        return tuple(chain(*self._spellings))

    @property
    def is_short(self) -> bool:
        """Whether its format, if it had one, may have fewer than 64 random bits: it can be guessed.

        An unknown token has no known format, so its text decides.
        """
        value = self.reveal()
        if len(value) <= PREFIX_MAX:
            return True
        return not is_uuid_token(value) and may_be_short(_without_gaps(value))

    def renewed(self, stored: Hash) -> Hash:
        """Return the hash with the newest pepper of the spelling that has the hash `stored`."""
        return next(hashes[0] for hashes in self._spellings if stored in hashes)

    @property
    def fingerprint(self) -> str:
        """Identifies the token in idempotency keys: stable until the oldest pepper is removed."""
        return self._spellings[0][-1].digest


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
        value = as_typed(token.reveal())
        spellings = dict.fromkeys((value, _without_gaps(value)))
        hashes = [self.tokens.token_hashes(account_id, spelling) for spelling in spellings]
        return GivenToken(value, *hashes)

    def keyed_pin(self, pin: Secret) -> GivenPin:
        """Return a PIN that can be compared with stored ones."""
        assert self.pins is not None
        return GivenPin(as_typed(pin.reveal()), self.pins)
