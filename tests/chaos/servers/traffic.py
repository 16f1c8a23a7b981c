"""The producer, which sends until the broker has acknowledged, and the reader of the stream."""

from threading import Event as Flag
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

from redis.exceptions import RedisError

from tests.chaos.servers.broker import Broker
from tests.chaos.servers.journal import Journal, Message
from tests.chaos.servers.workload import Workload

STREAM = "card-events"
RETRY_S = 0.1
BLOCK_MS = 500
READ_MAX = 500
PACE_S = 0.05


class Producer(Thread):
    """Sends commands, spread over the time of each fault.

    A message whose fate is unknown is sent again, the same to the byte.
    """

    def __init__(self, broker: Broker, journal: Journal, workload: Workload) -> None:
        super().__init__(name="producer")
        self._broker, self._journal, self._workload = broker, journal, workload
        self._stopped = Flag()
        self._lock = Lock()
        self._left = 0
        self._per_s = 0.0
        self._credit, self._credited = 0.0, monotonic()
        self._at_work = False
        self.messages = 0
        """How many messages were acknowledged, repeats included."""
        self.repeats = 0
        self.retries = 0
        """How often a message was sent again because nobody acknowledged it."""

    def plan(self, commands: int, over_s: float) -> None:
        """Send so many commands more, spread evenly over `over_s`; 0 sends at full speed."""
        with self._lock:
            self._left += commands
            self._per_s = self._left / over_s if over_s else 0.0
            self._credit, self._credited = 0.0, monotonic()

    @property
    def is_done(self) -> bool:
        """Whether all planned commands are acknowledged."""
        with self._lock:
            return self._left <= 0 and not self._at_work

    def stop(self) -> None:
        """End; a message that nobody has acknowledged is given up."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        with self._broker.client() as client:
            while not self._stopped.is_set():
                if not self._may_send():
                    self._stopped.wait(PACE_S)
                    continue
                message = self._workload.next()
                self._send(client, message)
                with self._lock:
                    self._left -= len(message.asked) + len(message.garbage)
                    self._at_work = False

    def _may_send(self) -> bool:
        with self._lock:
            now = monotonic()
            self._credit += (now - self._credited) * self._per_s
            self._credited = now
            self._at_work = self._left > 0 and (not self._per_s or self._credit >= 1)
            if self._at_work:
                self._credit -= 1
            return self._at_work

    def _send(self, client: Any, message: Message) -> None:
        self._journal.sending(message)
        while not self._stopped.is_set():
            try:
                client.lpush(message.queue, message.raw)
            except RedisError:
                self.retries += 1
                sleep(RETRY_S)
                continue
            self._journal.accepted(message)
            self.messages += 1
            self.repeats += not (message.asked or message.garbage)
            return


class Reader(Thread):
    """Reads the stream and notes when each event was seen first."""

    def __init__(self, broker: Broker, journal: Journal, workload: Workload) -> None:
        super().__init__(name="reader")
        self._broker, self._journal, self._workload = broker, journal, workload
        self._stopped = Flag()
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        last = "0-0"
        try:
            with self._broker.client(timeout_s=2) as client:
                while not self._stopped.is_set():
                    try:
                        last = self._read(client, last)
                    except RedisError:
                        sleep(RETRY_S)
        except BaseException as failure:
            self.failure = failure
            raise

    def _read(self, client: Any, last: str) -> str:
        read = client.xread({STREAM: last}, count=READ_MAX, block=BLOCK_MS)
        for entry_id, fields in read[0][1] if read else ():
            event = self._journal.seen(fields["id"], fields["event"])
            if event is not None:
                self._workload.learn(event)
            last = entry_id
        return last
