"""Encryption of data that this service decrypts itself, with keys that are not in the database."""

import base64

from cryptography.fernet import Fernet, InvalidToken

from card_worker.secrets.vault import Vault


class PepperMissing(Exception):
    """A pepper is missing that encrypting or decrypting needs. The text, one line, names it."""


def encrypt(vault: Vault, purpose: str, plain: bytes) -> str:
    """Encrypt `plain`. The result can only be decrypted for the same purpose."""
    setting = "TOKEN_PEPPERS" if vault.tokens is not None else "PIN_PEPPERS"
    peppers = vault.tokens or vault.pins
    assert peppers is not None
    kid, key = peppers.newest_key(purpose.encode())
    return f"{setting}:{kid}:{_fernet(key).encrypt(plain).decode('ascii')}"


def decrypt(vault: Vault, purpose: str, text: str) -> bytes:
    """Return what was passed to `encrypt`. Raises PepperMissing."""
    setting, kid, encrypted = text.split(":")
    peppers = vault.tokens if setting == "TOKEN_PEPPERS" else vault.pins
    key = None if peppers is None else peppers.key(kid, purpose.encode())
    if key is None:
        raise PepperMissing(f"{setting} has no key {kid} any more")
    try:
        return _fernet(key).decrypt(encrypted.encode("ascii"))
    except InvalidToken:
        raise PepperMissing(f"{setting} has another key {kid} than before") from None


def _fernet(key: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(key))
