"""The messages that one consumer has taken and not settled, as Redis stores them.

    inflight.consumers       sorted set: consumer -> its number of heartbeats
    inflight.of.<consumer>   hash: place -> message as it was received
    inflight.aside           list: descriptions of oversize entries, and entries that could not be
                             put back on their own list
    inflight.aside.of.<id>   list of one: an oversize entry, until it expires
    inflight.aside.sizes     hash: key of an oversize entry -> its size in bytes

Each key has the transport's `global_keyprefix`. A place is an increasing number of 15 digits, a
blank, and the list from which the message was taken.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from uuid import uuid4

from redis import Redis

ENTRY_BYTES_MAX = 16 * 1024 * 1024
"""A larger entry is set aside: the consumer gets a description of it."""
ASIDE_BYTES_MAX = 1024**3
"""Maximum for the sum of bytes of the entries that were set aside."""
ASIDE_S = 7 * 24 * 3600
"""Seconds for which an entry that was set aside is kept."""
GIVEN_BACK, DIED = b"\t", b" "
"""Marks at the end of a message, one for each return: by its consumer, or because that died."""


def script(name: str) -> str:
    """Return a Lua script of this package, without its comments."""
    lines = files(__package__).joinpath(f"{name}.lua").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--"))


TAKE, GIVE_BACK, BEAT = script("take"), script("give_back"), script("beat")


class InFlight:
    """The messages of one consumer. Thread-safe.

    `lists` are the lists to which messages may be put back; if empty, any list.
    """

    def __init__(
        self, redis: Redis, prefix: str, consumer: str | None = None, lists: Sequence[str] = ()
    ) -> None:
        self._redis = redis
        self._lists = tuple(lists)
        self.consumer = consumer or uuid4().hex
        self.consumers_key = f"{prefix}inflight.consumers"
        self.hashes = f"{prefix}inflight.of."
        self.key = f"{self.hashes}{self.consumer}"
        self.aside = f"{prefix}inflight.aside"
        self._taken = 0
        self.is_used = False
        """Whether Redis may hold this consumer or messages of it."""

    def take_command(
        self,
        lists: Sequence[str],
        *,
        messages_max: int,
        bytes_max: int,
        single: int = 0,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        kept: bool = True,
    ) -> tuple[Any, ...]:
        """Return the command that takes from `lists`, in their order, within both bounds.

        From the last `single` lists at most one message is taken. Where client tracking is on, the
        server then notifies the connection once, as soon as one of the lists changes. Without
        `kept`, the messages are gone once they are taken: there is nothing to acknowledge.
        """
        self.is_used |= kept
        bounds = (messages_max, bytes_max, self._taken, single)
        aside = (self.aside, entry_bytes_max, ASIDE_BYTES_MAX, ASIDE_S)
        keys = (self.key if kept else "", self.consumers_key, self.consumer)
        return ("EVAL", TAKE, len(lists), *lists, *keys, *bounds, *aside)

    def read_taken(self, reply: Sequence[bytes]) -> list[tuple[str, bytes]]:
        """Return (place, raw message) for each message in the reply to a take command."""
        self._taken += len(reply) // 2
        return [(reply[i].decode(), reply[i + 1]) for i in range(0, len(reply), 2)]

    def take_one(self, lists: Sequence[str]) -> tuple[str, bytes] | None:
        """Take one message; None when there is none."""
        command = self.take_command(lists, messages_max=1, bytes_max=1)
        taken = self.read_taken(self._redis.execute_command(*command))  # type: ignore[no-untyped-call]
        return taken[0] if taken else None

    def acknowledge(self, places: Sequence[str]) -> int:
        """Remove messages, in one step; return how many of them were still this consumer's."""
        return int(self._redis.hdel(self.key, *places)) if places else 0

    def give_back(self, places: Sequence[str] = (), *, died: bool = False) -> None:
        """Put messages back at the heads of their lists, in one step; all if none is named.

        `died` says that the process which handled them died.
        """
        self._give_back(self.consumer, "", DIED if died else GIVEN_BACK, places)

    def beat(self) -> dict[str, str]:
        """Count a heartbeat; return the number of heartbeats of every consumer.

        Names and numbers are as Redis stores them; others may have written them, too.
        """
        self.is_used = True
        reply: Any = self._redis.eval(BEAT, 1, self.consumers_key, self.consumer)
        texts = [part.decode(errors="surrogateescape") for part in reply]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def return_dead(self, consumer: str, beats: str) -> bool:
        """Put back all messages of another consumer, and remove it.

        Return False, and change nothing, if its number of heartbeats is no longer `beats`.
        """
        return self._give_back(consumer, beats, DIED) >= 0

    def leave(self, *, died: bool = False) -> None:
        """Put all messages back and remove this consumer; `died` as in `give_back`."""
        self._give_back(self.consumer, "leave", DIED if died else GIVEN_BACK)

    def _give_back(
        self, consumer: str, removal: str, mark: bytes, places: Sequence[str] = ()
    ) -> int:
        name = consumer.encode(errors="surrogateescape")
        keys = (self.consumers_key, self.hashes.encode() + name, self.aside)
        arguments: tuple[str | bytes | int, ...] = (
            name,
            removal,
            mark,
            len(self._lists),
            *self._lists,
            *places,
        )
        reply: Any = self._redis.eval(GIVE_BACK, len(keys), *keys, *arguments)
        return int(reply)
