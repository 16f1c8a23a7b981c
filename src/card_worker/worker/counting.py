"""Counts what came of messages, in the process that takes them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from time import monotonic, time

from card_worker import metrics
from card_worker.contracts.commands import COMMANDS
from card_worker.contracts.envelope import SENT_AT
from card_worker.domain.answers import refusal_of
from card_worker.worker.messages import Answered, Outcome, QueryAnswered, Returned
from card_worker.worker.received import Received

SENT_S_MAX = 7 * 86_400.0
"""A message that says that it is older, or from that far in the future, is not measured."""
INVALID = "invalid"
"""The name that is counted for a command whose own is not known."""

Counted = tuple[str, str, str]
"""Command, outcome, reason."""


def count_outcomes(ended: Sequence[tuple[Received, Outcome]]) -> None:
    """Count the messages of a group, after they were acknowledged."""
    if not metrics.is_on() or not ended:
        return
    for labels, number in Counter(each for pair in ended for each in _counted(*pair)).items():
        metrics.count(metrics.COMMANDS, *labels, by=number)
    if returned := sum(isinstance(end, Returned) for _, end in ended):
        metrics.count(metrics.RETURNED, by=returned)
    answered = [(received, end) for received, end in ended if _is_answered(end)]
    if not answered:
        return
    metrics.GROUP_MESSAGES.observe(len(ended))
    for seconds in {end.commit_s for _, end in answered if isinstance(end, Answered)}:
        metrics.COMMIT_SECONDS.observe(seconds)
    now, clock = monotonic(), time()
    for received, _ in answered:
        metrics.TAKEN_TO_ANSWERED.observe(now - received.taken_at)
        sent_at = received.raw.headers.get(SENT_AT)
        # The sender may have put anything there. Its clock may be ahead of ours.
        if isinstance(sent_at, float | int) and clock - SENT_S_MAX < sent_at < clock + SENT_S_MAX:
            metrics.SENT_TO_ANSWERED.observe(max(0.0, clock - sent_at))


def _is_answered(outcome: Outcome) -> bool:
    """Say whether a sender was answered: chunks and sweeps have no answers."""
    return isinstance(outcome, QueryAnswered) or bool(
        isinstance(outcome, Answered) and outcome.answers
    )


def _counted(received: Received, outcome: Outcome) -> Iterator[Counted]:
    match outcome:
        case QueryAnswered():
            reason = outcome.result.get("reason", "")
            yield received.message.task, "refused" if reason else "done", reason
        case Answered():
            for name, answer in zip(outcome.commands, outcome.answers, strict=False):
                command = name if name in COMMANDS else INVALID
                reason = refusal_of(answer) or ""
                yield command, "refused" if reason else "done", reason
