"""Run `card_worker.cli` with a clock that is some seconds off: off_clock.py SECONDS ARGUMENTS…

SECONDS may also be the absolute path of a file that holds them: the clock steps when it changes.
Only what a process asks Python for is off: `time.time`, and what `datetime` calls now.
"""

import datetime as datetimes
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OFF = Path(sys.argv[1])
_time, _time_ns = time.time, time.time_ns
_Real = datetimes.datetime


def _off_s() -> float:
    return float(OFF.read_text() if OFF.is_absolute() else str(OFF))


def _off(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return gmtime or localtime with a default that is off."""
    return lambda seconds=None: real(time.time() if seconds is None else seconds)


class _Meta(type):
    # What C code makes is of the real class, and has to count as one of this.
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Real)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, _Real)


class OffDatetime(_Real, metaclass=_Meta):
    """`datetime.datetime`, with another now."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _Real(*args, **kwargs)

    @classmethod
    def now(cls, tz: datetimes.tzinfo | None = None) -> Any:
        return _Real.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _Real.fromtimestamp(time.time(), datetimes.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return _Real.fromtimestamp(time.time())


def _set() -> None:
    clock: Any = time
    clock.time = lambda: _time() + _off_s()
    clock.time_ns = lambda: _time_ns() + int(_off_s() * 1e9)
    clock.gmtime, clock.localtime = _off(time.gmtime), _off(time.localtime)
    module: Any = datetimes
    module.datetime = OffDatetime


if __name__ == "__main__":
    _set()
    name, *arguments = sys.argv[2:]
    sys.argv = [name, *arguments]
    # This folder is no place to import from.
    sys.path.pop(0)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
