"""Entries shown to a real worker, and what became of each."""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Row, select

from card_worker.contracts.envelope import HEADERS_BYTES_MAX
from card_worker.contracts.json_text import json_bytes, write_json
from card_worker.storage.engine import reading
from card_worker.storage.tables import dead_letters, outbox
from tests.flow.processes import LOOK_S
from tests.flow.system import IN_FLIGHT, QUEUES, Event, System
from tests.transport.entries import Entry, Fate

FATE_S = 180.0
"""An entry without a result by then counts as held. A busy machine may be slow."""


@dataclass(frozen=True)
class Outcome:
    """What became of an entry."""

    fate: Fate
    worker_pid: int
    """Of the worker that was there afterwards."""
    told: str
    """What the letters and answers say; the end of the worker's log, if it did not go on."""


class Harness:
    """A system with one worker. One that ends, or holds an entry, is replaced."""

    def __init__(self, system: System, *options: str) -> None:
        self.system = system
        self._options = options
        self._letters, self._answers = 0, 0
        self._start()

    def _start(self) -> None:
        self.worker = self.system.start("worker", *self._options)
        self.worker.says("ready.")

    def show(self, entry: Entry) -> Outcome:
        """Put `entry` on a queue, alone; return what became of it."""
        raw = entry.write()
        self.system.push(raw)
        if not self.settles(within_s=FATE_S):
            return self._replace(Fate.HELD if self.worker.runs else Fate.STOPPED)
        letters, answers = self.letters(), self.answers()
        return Outcome(
            _fate(entry, raw, letters, answers),
            self.worker.pid,
            ", ".join(
                [letter.reason for letter in letters] + [answer["type"] for answer in answers]
            ),
        )

    @property
    def memory_max(self) -> int:
        """The most memory that the worker has had, in bytes; as Linux knows it."""
        status = Path(f"/proc/{self.worker.pid}/status").read_text()
        (peak,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(peak.split()[1]) * 1024

    def settles(self, *, within_s: float) -> bool:
        """Say whether nothing is left on the queues or with the worker, which goes on."""
        deadline = monotonic() + within_s
        # Twice, since one look could miss what goes back to its list.
        while self.system.waiting() or self.system.waiting():
            if not self.worker.runs or monotonic() > deadline:
                return False
            sleep(LOOK_S)
        return self.worker.runs

    def _replace(self, fate: Fate) -> Outcome:
        self.worker.kill9()
        told = self.worker.tail
        self.system.redis.delete(*QUEUES, *self.system.redis.scan_iter(IN_FLIGHT))
        self._start()
        self.letters(), self.answers()
        return Outcome(fate, self.worker.pid, f"its log:\n{told}")

    def letters(self) -> list[Row[Any]]:
        """Return the letters that are new since the last call."""
        asked = select(dead_letters).where(dead_letters.c.id > self._letters)
        with reading(self.system.engine) as connection:
            found = list(connection.execute(asked.order_by(dead_letters.c.id)))
        self._letters = found[-1].id if found else self._letters
        return found

    def answers(self) -> list[Event]:
        """Return the answers that are new since the last call, published or not."""
        asked = select(outbox).where(outbox.c.position > self._answers)
        with reading(self.system.engine) as connection:
            found = list(connection.execute(asked.order_by(outbox.c.position)))
        self._answers = found[-1].position if found else self._answers
        return [json.loads(row.event) for row in found]


def _fate(entry: Entry, raw: bytes, letters: list[Row[Any]], answers: list[Event]) -> Fate:
    rejections = [answer for answer in answers if answer["type"] == "command.rejected"]
    match len(letters), len(rejections):
        case 1, 0 if not answers:
            return Fate.LETTER if shows(letters[0], raw) else Fate.CHANGED
        case 0, 1:
            return Fate.REJECTED if answers_to(entry, rejections[0]) else Fate.CHANGED
        case 0, 0:
            return Fate.DONE if answers else Fate.VANISHED
    return Fate.DOUBLED


def shows(letter: Row[Any], raw: bytes) -> bool:
    """Say whether a letter holds what lay on the list; of what is too large, the beginning."""
    if letter.body == raw:
        return True
    if letter.aside_key is not None:
        return raw.startswith(letter.body) and _whole_digest(raw) in letter.detail
    headers, sent = _sent(raw)
    if letter.body != sent or headers is None:
        return False
    if json_bytes(headers) > HEADERS_BYTES_MAX:
        kept = (letter.headers or {}).get("cut", "").removesuffix("…")
        return len(kept) > 8_000 and write_json(headers).startswith(kept)
    return bool(letter.headers == headers)


def _sent(raw: bytes) -> tuple[Any, bytes | None]:
    """Return headers and body of a message; no body, if it is none."""
    try:
        envelope = json.loads(raw)
        headers, sent = envelope.get("headers") or {}, envelope["body"]
        if not envelope["properties"].get("body_encoding"):
            return headers, sent.encode()
        return headers, base64.b64decode(sent, validate=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, None


def answers_to(entry: Entry, answer: Event) -> bool:
    # A part of a list without a key is answered under the list's id and its place.
    return answer["correlationid"] in (entry.name, f"{entry.name}:0")


def unmatched(entries: Iterable[Entry], letters: Iterable[Row[Any]]) -> tuple[list[str], list[str]]:
    """Return the entries that no letter shows, and the letters that show no entry: one to one."""
    missing = Counter[str]()
    by_digest: dict[str, list[str]] = {}
    for entry in entries:
        missing[entry.name] += 1
        for digest in _digests(entry.write()):
            by_digest.setdefault(digest, []).append(entry.name)
    strangers = []
    for letter in letters:
        digest = sha256(letter.body).hexdigest()
        if letter.aside_key is not None:
            digest = letter.detail.partition("SHA-1 ")[2][:40]
        shown = by_digest.get(digest, ())
        name = next((name for name in shown if missing[name]), None)
        if name is None:
            strangers.append(f"{letter.message_id}: {letter.reason}")
        else:
            missing[name] -= 1
    return sorted(missing.elements()), strangers


def _digests(raw: bytes) -> set[str]:
    """Return the digests of what a letter may hold of an entry: its bytes, or those of its body."""
    _, sent = _sent(raw)
    digests = {sha256(held).hexdigest() for held in (raw, sent) if held is not None}
    return digests | {_whole_digest(raw)}


def _whole_digest(raw: bytes) -> str:
    """Return what a letter says of an entry that is too large to be read."""
    return sha1(raw, usedforsecurity=False).hexdigest()
