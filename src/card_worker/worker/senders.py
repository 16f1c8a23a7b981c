"""Verifies who has signed a message, with the registry of producers as it was last read.

A signature is verified before a commit opens. The first statement of the commit reads the version
of the registry: if that has changed, the commit is rolled back, and all is verified anew.
"""

from collections.abc import Container, Set
from time import monotonic

import structlog
from sqlalchemy import Engine

from card_worker.contracts.dead_letters import UNAUTHENTICATED, DeadLetterReason, Unreadable
from card_worker.contracts.envelope import quoted
from card_worker.contracts.message import ALL, SignedBy
from card_worker.contracts.signatures import Signature
from card_worker.domain.producers import ProducerKey, Sender
from card_worker.secrets.peppers import Peppers
from card_worker.secrets.signing import (
    Algorithm,
    Verify,
    ed25519_verifier,
    hmac_secret,
    hmac_verifier,
)
from card_worker.storage.engine import reading
from card_worker.storage.producers import PEPPER_PURPOSE, Registry, load_registry
from card_worker.worker.retries import Blocked, Retries

WARNING_INTERVAL_S = 60.0
PAUSE_S = 0.2

log = structlog.get_logger(__name__)


class Senders:
    """The registry of one process of a worker.

    `peppers` are those from which the secrets of HMAC keys are derived; with `is_required`, every
    account accepts signed commands only.
    """

    def __init__(
        self, engine: Engine, retries: Retries, peppers: Peppers | None, *, is_required: bool
    ) -> None:
        self._engine, self._retries, self._peppers = engine, retries, peppers
        self._is_required = is_required
        self._registry: Registry | None = None
        self._verifiers: dict[str, Verify | None] = {}
        self._is_fresh = False
        self._unsigned, self._warned_at = 0, -WARNING_INTERVAL_S

    @property
    def version(self) -> int:
        """The version of the registry as it was last read."""
        return self._known().version

    def expire(self) -> None:
        """Let `refresh_for` read the registry again."""
        self._is_fresh = False

    def refresh(self) -> None:
        """Read the registry, also while its tables are locked. Raises Interrupted."""
        while True:
            try:
                self._registry, self._verifiers = self._retries.run(self._load), {}
            except Blocked:
                log.warning("registry of producers is locked, retrying")
                self._retries.wait(PAUSE_S)
                continue
            self._is_fresh = True
            return

    def refresh_for(self, reasons: Set[DeadLetterReason]) -> bool:
        """Say whether messages that are unreadable for these reasons must be read again.

        Reads the registry for one about their senders, unless it was read since `expire`.
        """
        if self._is_fresh or UNAUTHENTICATED.isdisjoint(reasons):
            return False
        self.refresh()
        return True

    def authenticate(self, signature: Signature | None) -> tuple[Sender | None, SignedBy]:
        """Return the sender of a message, and what its commands are read with.

        Raises Unreadable for a signature that is not that of a valid key, and the errors of
        Retries.
        """
        if signature is None:
            return None, SignedBy(None, self._required())
        sender = self._verified(signature)
        return sender, SignedBy(sender.key.producer)

    def warn_of_unsigned(self, messages: int) -> None:
        """Log that unsigned commands are accepted, where there are producers that sign."""
        if not messages or not self._known().keys:
            return
        self._unsigned += messages
        if monotonic() - self._warned_at >= WARNING_INTERVAL_S:
            log.warning("unsigned commands accepted", messages=self._unsigned)
            self._unsigned, self._warned_at = 0, monotonic()

    def _required(self) -> Container[str]:
        return ALL if self._is_required else self._known().required

    def _known(self) -> Registry:
        if self._registry is None:
            self.refresh()
            assert self._registry is not None
        return self._registry

    def _load(self) -> Registry:
        with reading(self._engine) as connection:
            return load_registry(connection)

    def _verified(self, signature: Signature) -> Sender:
        known = self._known()
        key = known.keys.get(signature.key_id)
        if key is None:
            raise _unknown(signature, "is not registered")
        if key.algorithm is not signature.algorithm:
            detail = f"{quoted(key.key_id)} signs with {key.algorithm}"
            raise Unreadable(DeadLetterReason.SIGNATURE_WRONG, detail)
        if not key.is_valid(known.at):
            raise _unknown(signature, "was revoked" if key.revoked_at else "is not valid now")
        verify = self._verifier(key)
        if verify is None:
            raise _unknown(signature, f"needs the pepper {key.pepper}, which is not set")
        if not verify(signature.base, signature.value):
            raise Unreadable(DeadLetterReason.SIGNATURE_WRONG, quoted(key.key_id))
        is_counted = key.producer in known.limited
        return Sender(key, signature.time, signature.digest, known.windows_s, is_counted)

    def _verifier(self, key: ProducerKey) -> Verify | None:
        if key.key_id not in self._verifiers:
            self._verifiers[key.key_id] = self._make_verifier(key)
        return self._verifiers[key.key_id]

    def _make_verifier(self, key: ProducerKey) -> Verify | None:
        if key.algorithm is Algorithm.ED25519:
            assert key.public_key is not None
            return ed25519_verifier(key.public_key)
        assert key.pepper is not None
        pepper = self._peppers and self._peppers.key(key.pepper, PEPPER_PURPOSE)
        return hmac_verifier(hmac_secret(key.key_id, pepper)) if pepper else None


def _unknown(signature: Signature, why: str) -> Unreadable:
    return Unreadable(DeadLetterReason.KEY_UNKNOWN, f"{quoted(signature.key_id)} {why}")
