"""The resources that the parts of a delivery share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from card_worker.batches.chunks import Chunk
from card_worker.secret_issuer import SecretIssuer
from card_worker.worker.dead_letters import DeadLetters
from card_worker.worker.fair_share import FairShare
from card_worker.worker.retries import Retries
from card_worker.worker.senders import Senders
from card_worker.worker.starts import Starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources of one process of a worker."""

    engine: Engine
    issuer: SecretIssuer
    retries: Retries
    starts: Starts
    senders: Senders
    dead_letters: DeadLetters
    fair_share: FairShare
    put_files: Callable[[], None]
    """Starts writing files to the file store and returns at once."""
    request: Callable[[Sequence[Chunk]], None]
    """Sends messages that request chunks."""
