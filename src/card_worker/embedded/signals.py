"""Ctrl-C, SIGTERM and a closed terminal set a flag, and raise no exception."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Whether the user wants to stop the command."""

    received: bool = False


@contextmanager
def catching_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGINT, SIGTERM and SIGHUP set.

    An exception instead could lose a process that was just started, or interrupt the clean-up.
    """
    request, before = StopRequest(), {}

    def on_signal(*_: object) -> None:
        request.received = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # After nohup, SIGHUP stays ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
