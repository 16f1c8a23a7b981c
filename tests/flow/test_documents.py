"""README, tutorial and the page for shops: every command and program in them is run."""

import json
import re
from pathlib import Path
from urllib.request import urlopen

from redis import Redis

from tests.documents.reading import ELSEWHERE, ROOT, Reader, reading
from tests.flow.processes import until
from tests.flow.system import System

SILENT_READS = 7
"""So many reads that bring nothing last longer than the 5 s after which redis-py gives up."""

ENDED = "All processes have ended."


def test_readme(tmp_path: Path) -> None:
    with reading(tmp_path) as reader:
        reader.follow(ROOT / "README.md")
        _consumer_survives_silence(reader)
        assert ENDED in reader.interrupt("make dev")


def test_tutorial(tmp_path: Path) -> None:
    with reading(tmp_path) as reader:
        reader.follow(ROOT / "docs" / "tutorial.md")
        _flower_shows(reader, "transactions.create")
        assert (reader.folder / "july.pdf").read_bytes().startswith(b"%PDF")
        assert len((reader.folder / "july.csv").read_text().splitlines()) == 101
        reader.follow(ROOT / "docs" / "how-to" / "integrate-a-shop.md")
        assert ENDED in reader.interrupt("make dev")


def test_events_are_published_again_after_redis_was_lost(own: System) -> None:
    own.start("worker")
    relay = own.start("relay")
    own.create("card-1", "card-2")
    own.answers("card-1", "card-2")
    assert relay.stop() == 0
    before = own.stream()
    own.redis.flushall()
    page = ROOT / "docs" / "how-to" / "losing-redis.md"
    command = re.search(r"^ +card-worker (events republish --since .+)$", page.read_text(), re.M)
    assert command is not None
    assert own.cli(*command[1].split()).exit_code == 0
    own.start("relay")
    own.publishes(len(before))
    assert own.stream() == before


def test_what_a_reader_of_these_documents_does_elsewhere_is_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert [command for command in ELSEWHERE if command not in script] == []


def _printed(reader: Reader, pattern: str) -> str:
    (value,) = re.findall(pattern, reader.dev_output, re.MULTILINE)
    return str(value)


def _consumer_survives_silence(reader: Reader) -> None:
    with Redis.from_url(_printed(reader, r"^export CARD_WORKER_BROKER_URL=(\S+)$")) as redis:

        def reads() -> int:
            return int(redis.info("commandstats")["cmdstat_xread"]["calls"])

        before = reads()
        until(lambda: reads() >= before + SILENT_READS, "silent reads")
    assert reader.runs("python consumer.py")


def _flower_shows(reader: Reader, task: str) -> None:
    address = _printed(reader, r"^ +Flower +(http\S+)$") + f"api/tasks?taskname={task}"

    def is_shown() -> bool:
        with urlopen(address, timeout=60) as response:  # noqa: S310  # as dev prints it
            tasks = json.load(response).values()
        return any(each["state"] == "SUCCESS" for each in tasks)

    until(is_shown, f"{task} in Flower")
