"""Messages that are started alone, because one of them may be what fails or kills its worker."""

from collections.abc import Callable
from functools import partial

import structlog

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.defects import log_defect
from card_worker.storage.engine import RegistryChanged
from card_worker.worker.dead_letters import describe_defect
from card_worker.worker.messages import Failed, Message, Outcome, Returned, Waiting
from card_worker.worker.resources import Resources
from card_worker.worker.retries import Blocked, Interrupted

DEATHS_TOGETHER_MAX = 1
"""A message of which more workers than this have died is started alone."""


def is_suspect(message: Message) -> bool:
    """Say whether a message may be what kills the workers that take it."""
    return message.deaths > DEATHS_TOGETHER_MAX


class Isolation:
    """Starts a message alone until it has an outcome, STARTS_MAX times at most."""

    def __init__(self, resources: Resources) -> None:
        self._retries, self._starts = resources.retries, resources.starts
        self._dead_letters = resources.dead_letters

    def run(
        self,
        message: Message,
        start: Callable[[], Outcome],
        defect: Exception | None = None,
        on_failed: Callable[[Failed], None] = lambda _: None,
    ) -> Outcome:
        """Start a message; `defect` is the one of its first start, together with others.

        Each start but the first is counted in a commit before it, so that one which kills its
        process counts as well. The first is not counted, so that ordinary messages cost nothing.
        `on_failed` is called before the message becomes a dead letter, perhaps more than once.
        """
        with structlog.contextvars.bound_contextvars(message_id=message.id, task=message.task):
            while True:
                has_failed = defect is not None
                try:
                    if self._retries.run(
                        partial(self._starts.has_left, message, failed=has_failed)
                    ):
                        return self._retries.run(start)
                    failed = _failed(defect)
                    self._retries.run(partial(on_failed, failed))
                except Interrupted:
                    return Returned()
                except Blocked:
                    self._starts.take_back([message])
                    return Waiting()
                except RegistryChanged:
                    self._starts.take_back([message])
                    raise
                except Exception as another:
                    log_defect(another, messages=1)
                    defect = another
                    continue
                outcome = self._dead_letters.dead_letter(message, failed.reason, failed.detail)
                if isinstance(outcome, Failed):
                    self._starts.forget([message])
                return outcome


def _failed(defect: Exception | None) -> Failed:
    """Return why a message that has had all its starts becomes a dead letter."""
    if defect is None:
        return Failed(DeadLetterReason.STARTS_EXHAUSTED)
    return Failed(DeadLetterReason.DEFECT, describe_defect(defect))
