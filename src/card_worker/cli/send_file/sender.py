"""Sending the lines of a file step by step, and collecting their answers.

At most STEPS_AHEAD_MAX steps wait for answers. So memory doesn't grow with the file, and a run
after a crash sends few lines again: with the same command_ids, so that the answers come again.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rich.progress import Progress as Bar

from card_worker.cli.console import problem_list
from card_worker.cli.send_file.header import numbered
from card_worker.cli.send_file.progress import Progress, ProgressFile
from card_worker.cli.send_file.reader import BadLine, Line, Reader
from card_worker.cli.send_file.refused import RefusedFile
from card_worker.contracts.commands import ProducerCommand
from card_worker.contracts.enums import EventType

if TYPE_CHECKING:  # Celery takes long to load
    from card_worker.client import Client, Event

LINES_PER_STEP = 1_000
STEPS_AHEAD_MAX = 20
POLL_S = 0.5


@dataclass(slots=True)
class Step:
    """Lines that are sent together. `position` is that of the reader after them."""

    lines: Sequence[Line]
    position: dict[str, Any]
    waiting: set[int] = field(default_factory=set)
    """The numbers of the lines without an answer."""
    refused: dict[int, dict[str, Any]] = field(default_factory=dict)
    """`data` of the refusals by the number of the line."""
    has_answers: bool = False


class Sender:
    """Sends what is left of a file. With `timeout_s` None, it doesn't wait for answers.

    Raises kombu.exceptions.KombuError or redis.RedisError if Redis fails.
    """

    def __init__(
        self,
        client: "Client",
        reader: Reader,
        files: tuple[ProgressFile, RefusedFile],
        bar: Bar,
        *,
        progress: Progress,
        timeout_s: float | None,
    ) -> None:
        self.progress = progress
        self._client, self._reader, self._bar, self._timeout_s = client, reader, bar, timeout_s
        self._progress_file, self._refused_file = files
        self._steps = deque[Step]()
        # The lines that wait, by account and command_id; equal lines have one answer.
        self._waiting: dict[tuple[str, str], tuple[ProducerCommand, list[tuple[Step, int]]]] = {}
        self._after: str | None = None
        self._active_at = 0.0

    def send_all(self) -> bool:
        """Send all lines; return False if no more answers came."""
        lines = self._reader.lines()
        while step := list(islice(lines, LINES_PER_STEP)):
            self._send(step)
            while self._after and self._read(0):
                pass
            if not self._close_steps(left_max=STEPS_AHEAD_MAX - 1):
                return False
        return self._close_steps(left_max=0)

    def _send(self, lines: Sequence[Line]) -> None:
        step = Step(lines, self._reader.position())
        self._steps.append(step)
        if self._after is None and any(not isinstance(line.command, BadLine) for line in lines):
            self._after = self._newest()
        if self._after:
            step.lines = [self._expect(step, line) for line in lines]
        for line in step.lines:
            if isinstance(line.command, BadLine):
                self._bar.console.print(f"line {line.number}: {line.command}")
        commands = [line.command for line in step.lines if not isinstance(line.command, BadLine)]
        if commands:
            self._client.send_list(commands)
            self._active_at = monotonic()
            if not self.progress.has_begun:
                self._store(has_begun=True)

    def _newest(self) -> str:
        """Return the end of the stream; empty if answers are not awaited."""
        try:
            return "" if self._timeout_s is None else self._client.newest()
        except RedisError as error:
            self._bar.console.print(f"events can't be read, so answers are not awaited: {error}")
            return ""

    def _expect(self, step: Step, line: Line) -> Line:
        command = line.command
        if isinstance(command, BadLine):
            return line
        key = command.account_id, command.command_id
        first, places = self._waiting.setdefault(key, (command, []))
        if first != command:  # one answer would be taken for both
            text = f"its command_id is that of line {places[0][1]}, which has other fields"
            return replace(line, command=BadLine(text))
        places.append((step, line.number))
        step.waiting.add(line.number)
        return line

    def _read(self, wait_s: float) -> bool:
        """Read some events; return whether there were any."""
        events = self._client.read_events(self._after or "0-0", wait_s=wait_s)
        for self._after, event in events:
            if event.get("answer"):
                self._take(event)
        self._show()
        return bool(events)

    def _take(self, event: "Event") -> None:
        key = event["data"]["account_id"], event["correlationid"]
        _, places = self._waiting.pop(key, (None, ()))
        if event["type"] == EventType.COMMAND_REPEATED:
            event = event["data"]["event"]
        for step, number in places:
            self._active_at, step.has_answers = monotonic(), True
            step.waiting.remove(number)
            if event["type"] == EventType.COMMAND_REJECTED:
                step.refused[number] = event["data"]

    def _close_steps(self, *, left_max: int) -> bool:
        """Close steps in their order until one waits; wait while there are more than `left_max`.

        Return False if no answer came in time.
        """
        while self._steps and (len(self._steps) > left_max or not self._steps[0].waiting):
            if not self._is_answered(self._steps[0]):
                return False
            self._close(self._steps.popleft())
        return True

    def _is_answered(self, step: Step) -> bool:
        timeout_s = self._timeout_s or 0
        while step.waiting:
            if monotonic() - self._active_at > timeout_s:
                # Later commands were handled, so these may be lost, for example dead letters.
                if not any(later.has_answers for later in islice(self._steps, 1, None)):
                    return False
                lines = numbered("line", sorted(step.waiting))
                self._bar.console.print(f"{lines}: no answer came within {timeout_s:g} s")
                break
            self._read(min(POLL_S, timeout_s))
        return True

    def _close(self, step: Step) -> None:
        """Write the refused lines of a step, and store the progress."""
        refused, bad = [], 0
        for line in step.lines:
            if isinstance(line.command, BadLine):
                bad += 1
                refused.append((line.content, f"invalid: {line.command}"))
            elif line.number in step.waiting:
                self._waiting.pop((line.command.account_id, line.command.command_id), None)
            elif line.number in step.refused:
                data = step.refused[line.number]
                why = "; ".join(problem_list(data)) or data["message"]
                refused.append((line.content, f"{data['reason']}: {why}"))
        before, sent = self.progress, len(step.lines) - bad
        done = sent - len(step.waiting) - len(step.refused) if self._after else 0
        reasons = Counter(data["reason"] for data in step.refused.values())
        self._store(
            **step.position,
            **(self._refused_file.append(refused) if refused else {}),
            sent=before.sent + sent,
            bad=before.bad + bad,
            done=before.done + done,
            refused=dict(Counter(before.refused) + reasons),
            unanswered=before.unanswered + len(step.waiting),
        )
        self._show()

    def _store(self, **fields: Any) -> None:
        self.progress = replace(self.progress, **fields)
        self._progress_file.write(self.progress)

    def _show(self) -> None:
        """Show how many lines are answered; without answers, how many are sent."""
        answered = sum(len(step.lines) - len(step.waiting) for step in self._steps)
        self._bar.update(self._bar.task_ids[0], completed=self.progress.lines + answered)
