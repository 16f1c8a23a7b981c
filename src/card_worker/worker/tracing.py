"""The spans of this process, made when the first group is handled. Needs the extra `otel`."""

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from card_worker.storage.contention import Row
from card_worker.worker.messages import Message, Outcome

if TYPE_CHECKING:
    from card_worker.worker.spans import Deliver, Spans

END_S_MAX = 2.0
"""Seconds for which a process that ends waits until its spans are exported."""


class NoTraces(Exception):
    """Spans can't be made: one line that names the setting."""


def check() -> None:
    """Make and end the spans of no group. Raises NoTraces."""
    try:
        _new_spans().close(within_s=0)
    except ImportError:
        raise NoTraces("CARD_WORKER_TRACES: needs pip install 'card-worker[otel]'") from None
    except Exception as error:  # of the library, for one of its variables OTEL_…
        raise NoTraces(f"CARD_WORKER_TRACES: {type(error).__name__}: {error}") from None


def deliver_in_span(
    deliver: "Deliver", messages: Sequence[Message], locked: frozenset[Row]
) -> list[Outcome]:
    """Return what `deliver` returns for a group, in a span."""
    return _spans_of(os.getpid()).deliver(deliver, messages, locked)


def close() -> None:
    """Export the last spans of this process, if it has made any."""
    if _spans_of.cache_info().currsize:
        _spans_of(os.getpid()).close(within_s=END_S_MAX)


@cache
def _spans_of(_pid: int) -> "Spans":
    # The exporter is a thread, which does not survive a fork.
    return _new_spans()


def _new_spans() -> "Spans":
    from card_worker.worker.spans import Spans  # noqa: PLC0415  # of an extra

    return Spans()
