"""Keeping: what the service itself will read again, encrypted with what isn't in the database."""

import base64

from cryptography.fernet import Fernet, InvalidToken

from card_worker.secrets.vault import Vault


class NotKept(Exception):
    """A pepper is missing that it takes to keep it, or to read what was kept. The text, a line,
    says which."""


def keep(vault: Vault, purpose: str, plain: bytes) -> str:
    """Return `plain` encrypted for this purpose; what is kept for another can't stand for it."""
    setting = "TOKEN_PEPPERS" if vault.tokens is not None else "PIN_PEPPERS"
    peppers = vault.tokens or vault.pins
    assert peppers is not None
    kid, key = peppers.key_for(purpose.encode())
    return f"{setting}:{kid}:{_fernet(key).encrypt(plain).decode('ascii')}"


def kept(vault: Vault, purpose: str, text: str) -> bytes:
    """Return what `keep` was given. Raises NotKept."""
    setting, kid, encrypted = text.split(":")
    peppers = vault.tokens if setting == "TOKEN_PEPPERS" else vault.pins
    key = None if peppers is None else peppers.known_key_for(kid, purpose.encode())
    if key is None:
        raise NotKept(f"{setting} has no key {kid} any more")
    try:
        return _fernet(key).decrypt(encrypted.encode("ascii"))
    except InvalidToken:
        raise NotKept(f"{setting} has another key {kid} than before") from None


def _fernet(key: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(key))
