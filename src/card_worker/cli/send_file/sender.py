"""Sending the lines of a file step by step, and collecting their answers.

At most STEPS_AHEAD_MAX steps wait for answers. So memory doesn't grow with the file, and a run
after a crash sends few lines again: with the same command_ids, so that the answers come again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rich.progress import Progress as Bar

from card_worker.cli.console import explanation
from card_worker.cli.send_file.header import numbered
from card_worker.cli.send_file.progress import Progress, ProgressFile
from card_worker.cli.send_file.reader import BadLine, Content, Line, Reader
from card_worker.cli.send_file.refused import RefusedFile
from card_worker.contracts.commands import ProducerCommand
from card_worker.contracts.enums import EventType

if TYPE_CHECKING:  # Celery takes long to load
    from card_worker.client import Client, Event

LINES_PER_STEP = 1_000
STEPS_AHEAD_MAX = 20
POLL_S = 0.5


@dataclass(slots=True, eq=False)
class Step:
    """Lines that are sent together."""

    lines: Sequence[Line]
    waiting: set[int] = field(default_factory=set)
    """The numbers of the lines without an answer."""
    refused: dict[int, dict[str, Any]] = field(default_factory=dict)
    """`data` of the refusals by the number of the line."""

    @property
    def commands(self) -> list[ProducerCommand]:
        return [line.command for line in self.lines if not isinstance(line.command, BadLine)]


class Sender:
    """Sends what is left of a file. With `timeout_s` None, it doesn't wait for answers.

    Raises kombu.exceptions.KombuError or redis.RedisError if Redis fails.
    """

    def __init__(
        self,
        client: "Client",
        reader: Reader,
        progress: Progress,
        files: tuple[ProgressFile, RefusedFile],
        bar: Bar,
        *,
        timeout_s: float | None,
    ) -> None:
        self._client, self._reader, self._progress, self._bar = client, reader, progress, bar
        self._progress_file, self._refused_file = files
        self._name = bar.tasks[0].description
        self._timeout_s = timeout_s
        self._steps = list[Step]()
        # The lines that wait, by account and command_id; equal lines have one answer.
        self._waiting: dict[tuple[str, str], tuple[ProducerCommand, list[tuple[Step, int]]]] = {}
        self._after: str | None = None  # the last entry read; empty if answers are not awaited
        self._active_at = 0.0

    def send_all(self) -> None:
        """Send all lines, as long as answers come."""
        self._show()
        lines = self._reader.lines()
        while step := list(islice(lines, LINES_PER_STEP)):
            self._send(Step(step))
            while self._read(0):
                pass
            if not self._wait(STEPS_AHEAD_MAX - 1):
                return
        self._wait(0)

    def _send(self, step: Step) -> None:
        if step.commands and self._after is None:
            self._after = self._newest()
        if self._after:
            step.lines = [self._expect(step, line) for line in step.lines]
        for line in step.lines:
            if isinstance(line.command, BadLine):
                self._bar.console.print(f"line {line.number}: {line.command}")
        if step.commands and not self._progress.sent:
            self._client.connect()
        self._steps.append(step)
        self._progress.unanswered.update(line.number for line in step.lines)
        if step.commands:
            # Before they are sent: after a crash, the same lines get the same command_ids.
            self._store()
            self._client.send_list(step.commands)
            self._active_at = monotonic()
        if not step.waiting:
            self._close(step)

    def _newest(self) -> str:
        """Return the end of the stream; empty if answers are not awaited."""
        try:
            return "" if self._timeout_s is None else self._client.newest()
        except RedisError as error:
            self._bar.console.print(f"events can't be read, so answers are not awaited: {error}")
            return ""

    def _expect(self, step: Step, line: Line) -> Line:
        from card_worker.client import fields

        command = line.command
        if isinstance(command, BadLine):
            return line
        key = command.account_id, command.command_id
        first, places = self._waiting.setdefault(key, (command, []))
        # One answer would be taken for both. Equal models may differ in the nulls that are sent.
        if first is not command and fields(first) != fields(command):
            text = f"its command_id is that of line {places[0][1]}, which has other fields"
            return replace(line, command=BadLine(text))
        places.append((step, line.number))
        step.waiting.add(line.number)
        return line

    def _read(self, wait_s: float) -> bool:
        """Read some events, close the steps that they answer; return whether there were any."""
        if not self._after:
            return False
        events = self._client.read_events(self._after, wait_s=wait_s)
        for self._after, event in events:
            if event.get("answer"):
                self._take(event)
        for step in [step for step in self._steps if not step.waiting]:
            self._close(step)
        self._show()
        return bool(events)

    def _take(self, event: "Event") -> None:
        key = event["data"]["account_id"], event["correlationid"]
        _, places = self._waiting.pop(key, (None, ()))
        if event["type"] == EventType.COMMAND_REPEATED:
            event = _first(event["data"])
        for step, number in places:
            self._active_at = monotonic()
            step.waiting.remove(number)
            if event["type"] == EventType.COMMAND_REJECTED:
                step.refused[number] = event["data"]

    def _wait(self, steps_max: int) -> bool:
        """Wait until at most `steps_max` steps are open; return False if answers don't come."""
        timeout_s = self._timeout_s or 0
        while len(self._steps) > steps_max:
            if monotonic() - self._active_at <= timeout_s:
                self._read(min(POLL_S, timeout_s))
                continue
            lines = numbered("line", sorted(n for step in self._steps for n in step.waiting))
            self._bar.console.print(
                f"{lines}: no answer came within {timeout_s:g} s. Do a worker and the relay run?"
                " Look for the commands with `card-worker dead-letters list`. Then run it again"
                " without --again: it sends lines without an answer again, and continues after"
                f" line {self._progress.lines}"
            )
            # If commands sent last are handled, the others are lost, for example dead letters.
            newest = self._steps[-1]
            is_alive = len(newest.waiting) < len(newest.commands)
            while self._steps:
                self._close(self._steps[0])
            return is_alive
        return True

    def _close(self, step: Step) -> None:
        """Write the refused lines of a step, and store the progress."""
        self._steps.remove(step)
        refused, progress = list[tuple[Content, str]](), self._progress
        for line in step.lines:
            if isinstance(line.command, BadLine):
                progress.bad += 1
                refused.append((line.content, f"invalid: {line.command}"))
            elif data := step.refused.get(line.number):
                progress.refused[data["reason"]] += 1
                refused.append((line.content, f"{data['reason']}: {explanation(data)}"))
            elif not self._after:
                progress.unawaited += 1
            elif line.number not in step.waiting:
                progress.done += 1
            if line.number not in step.waiting:
                progress.unanswered.discard(line.number)
        if refused:
            self._refused_file.append(refused)
        self._store()

    def _store(self) -> None:
        self._reader.note_position(self._progress)
        self._progress_file.write(self._progress)
        self._show()

    def _show(self) -> None:
        """Show how many lines are answered; if not all answers are awaited, how many are sent."""
        progress, lines = self._progress, self._reader.lines_read - self._reader.header_lines
        answered = sum(len(step.lines) - len(step.waiting) for step in self._steps)
        completed = lines - len(progress.unanswered) + answered
        is_awaited = self._timeout_s is not None and self._after != "" and not progress.unawaited
        description = f"{self._name}: {'answers' if is_awaited else 'sent'}"
        self._bar.update(self._bar.task_ids[0], completed=completed, description=description)


def _first(repeat: "Mapping[str, Any]") -> "Event":
    """Return the first answer that a repeat holds, or what is still stored of it."""
    lost = {"reason": "refused", "message": "refused before; the reason is no longer stored"}
    return repeat.get("event") or {"type": repeat["event_type"], "data": {**repeat, **lost}}
