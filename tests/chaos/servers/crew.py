"""The system's parts as processes: started, replaced when they are killed, watched for ends."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil

from tests.flow.processes import Part, Parts

OFF_CLOCK = Path(__file__).with_name("off_clock.py")
RESTART_S = 1.0
"""How long an ended part stays away before it is replaced."""
END_MAX_S = 40.0
"""How long a part may take to end after SIGTERM or SIGQUIT."""
TAIL_LINES = 25
ROLES = {"worker": 3, "relay": 2, "beat": 2}
"""How many of each part run."""


@dataclass
class Ended:
    """A part that ended although nobody had told it to, or not as it was told."""

    name: str
    how: str
    kind: str
    """The kind of fault that was active, or had ended last."""
    tail: str

    def __str__(self) -> str:
        return f"{self.name} {self.how} ({self.kind})"


class Crew:
    """All parts. Only the main thread uses it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._numbers = dict.fromkeys(ROLES, 0)
        self.running: dict[str, list[Part]] = {role: [] for role in ROLES}
        self._names: dict[Part, str] = {}
        self._due: list[tuple[float, str]] = []
        """When an ended part is replaced, and its role."""
        self.ended: list[Ended] = []
        self.kind = "none"

    @property
    def workers(self) -> list[Part]:
        return self.running["worker"]

    def start_all(self) -> None:
        """Start what is missing of each role."""
        self._due = []
        for role, number in ROLES.items():
            while len(self.running[role]) < number:
                self.start(role)

    def start(self, role: str, *, clock_off_s: int = 0, **settings: str) -> Part:
        """Start a part; with `clock_off_s` its clock is so many seconds from the machine's."""
        self._numbers[role] += 1
        name = f"{role}-{self._numbers[role]}"
        arguments: tuple[str, ...] = ("-m", "card_worker.cli", role)
        if role == "worker":
            arguments += (f"--hostname={name}@%h",)
        if clock_off_s:
            arguments = (str(OFF_CLOCK), str(clock_off_s), *arguments[1:])
            part = self._parts.run(*arguments, name=name, env=None, **settings)
        else:
            part = self._parts.fork(*arguments, name=name, **settings)
        self.running[role].append(part)
        self._names[part] = name
        return part

    def kill(self, *victims: Part) -> None:
        """Kill parts with SIGKILL, all before any is waited for, and start nothing."""
        for victim in victims:
            with suppress(ProcessLookupError):
                os.killpg(victim.pid, signal.SIGKILL)
        for victim in victims:
            victim.kill9()
            self._leave(victim)

    def kill_all(self) -> None:
        """Kill every part."""
        self.kill(*(part for parts in self.running.values() for part in parts))

    def tell(self, number: signal.Signals, *parts: Part) -> None:
        """Send parts the signal that ends them; wait for nothing."""
        for part in parts:
            self._leave(part)
            if part.runs:
                os.kill(part.pid, number)

    def end(self, number: signal.Signals, *parts: Part, must_be_0: bool = True) -> None:
        """End parts by a signal and wait for them."""
        self.tell(number, *parts)
        self.await_end(number, *parts, must_be_0=must_be_0)

    def await_end(self, number: signal.Signals, *parts: Part, must_be_0: bool = True) -> None:
        """Wait for parts to end; report those that don't, or with another code than 0."""
        for part in parts:
            deadline = monotonic() + END_MAX_S
            while part.runs and monotonic() < deadline:
                sleep(0.05)
            if part.runs:
                self._report(part, f"did not end within {END_MAX_S:g} s of {number.name}")
                part.kill9()
            elif must_be_0 and part.ended() != 0:
                self._report(part, f"ended with {part.ended()} on {number.name}")

    def watch(self) -> None:
        """Report and replace what has ended by itself."""
        for role, parts in self.running.items():
            for part in [part for part in parts if not part.runs]:
                self._report(part, f"ended by itself with {part.ended()}")
                self._leave(part)
                self._due.append((monotonic() + RESTART_S, role))
        for due in [due for due in self._due if due[0] <= monotonic()]:
            self._due.remove(due)
            self.start(due[1])

    def is_ready(self, part: Part) -> bool:
        """Say whether a part has begun its work."""
        words = {"worker": " ready.", "relay": "relay started", "beat": "sweep requested"}
        return words[self._names[part].partition("-")[0]] in part.said

    def is_complete(self) -> bool:
        """Say whether all parts have begun their work. A start may end where work would go on."""
        return all(self.is_ready(part) for parts in self.running.values() for part in parts)

    def wait(self, is_so: Callable[[], object], *, max_s: float) -> bool:
        """Wait until `is_so`, watching; say whether it came within `max_s`."""
        deadline = monotonic() + max_s
        while not is_so():
            if monotonic() > deadline:
                return False
            self.watch()
            sleep(0.05)
        return True

    def memory_mb(self) -> int:
        """Return the resident memory of the largest part, in MB."""
        largest = 0
        for part in (part for parts in self.running.values() for part in parts):
            with suppress(psutil.Error):
                largest = max(largest, psutil.Process(part.pid).memory_info().rss)
        return largest // 2**20

    def name(self, part: Part) -> str:
        return self._names[part]

    def _leave(self, part: Part) -> None:
        for parts in self.running.values():
            if part in parts:
                parts.remove(part)

    def _report(self, part: Part, how: str) -> None:
        tail = "\n".join(part.said.splitlines()[-TAIL_LINES:])
        self.ended.append(Ended(self._names[part], how, self.kind, tail))
