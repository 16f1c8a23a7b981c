"""Ctrl-C, SIGTERM and a closed terminal as a request that is polled, never as an exception."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Whether the user has stopped the command."""

    received: bool = False


@contextmanager
def catching_signals() -> Iterator[StopRequest]:
    """Yield a request that is set by SIGINT, SIGTERM and SIGHUP.

    The handler raises nothing: an exception at any moment could lose a process that was just
    started, or cut a clean-up short.
    """
    request, before = StopRequest(), {}

    def on_signal(*_: object) -> None:
        request.received = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP, and so do we then.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
