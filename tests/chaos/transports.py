"""The two transports that are killed beside each other, and where each keeps what it has taken."""

import json
from pathlib import Path
from typing import Any, Protocol

from kombu.connection import Connection

from tests.flow.processes import until
from tests.flow.system import System

ROOT = Path(__file__).parents[2]
BACK_S = 180.0
"""The living return what the dead held within 30 s, on a machine that is not busy."""


class Transport(Protocol):
    """How a worker comes to its messages."""

    name: str

    def choose(self, system: System) -> None:
        """Let the workers that `system` starts from now on use it."""

    def held(self, system: System) -> int:
        """Return how many messages workers have taken and not acknowledged."""

    def give_back(self, system: System) -> None:
        """Return when what dead workers held is on its queue again."""


class Ours:
    """card_worker's own."""

    name = "card_worker"

    def choose(self, system: System) -> None:
        """Do nothing: it is what celeryconfig.py says."""

    def held(self, system: System) -> int:
        return system.held()

    def give_back(self, system: System) -> None:
        """Wait: the living do it."""
        until(lambda: system.held() == 0, "the return of what the dead held", within_s=BACK_S)


class Stock:
    """The one that Celery brings along. All else is the same, late acknowledgement too."""

    name = "stock"

    def choose(self, system: System) -> None:
        settings = ROOT / "celeryconfig.py"
        # In the folder that a worker is started from, it takes the place of the other.
        (system.parts.folder / "cwd").mkdir(exist_ok=True)
        (system.parts.folder / "cwd" / "celeryconfig.py").write_text(
            f"exec(compile(open({str(settings)!r}).read(), 'celeryconfig.py', 'exec'))\n"
            "broker_transport = 'redis'\n"
            "del broker_transport_options['messages_max'], broker_transport_options['strict']\n"
        )

    def held(self, system: System) -> int:
        return int(str(system.redis.hlen("unacked")))

    def give_back(self, system: System) -> None:
        """Do by hand what it does itself after an hour."""
        tags: Any = system.redis.hkeys("unacked")
        with Connection(system.broker_url) as connection:
            for tag in tags:
                connection.default_channel.qos.restore_by_tag(tag)
        assert self.held(system) == 0, json.dumps(tags)
