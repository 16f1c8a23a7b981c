"""`card-worker acl`: the users of Redis, each with the rights of its part."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from typer import Option, Typer, echo

from card_worker.cli.console import refuse
from card_worker.contracts.commands import QUEUES, SWEEPS, Queue
from card_worker.settings import PREFIX, Settings, load_settings
from card_worker.transport import access
from card_worker.transport.access import Access
from card_worker.worker.default_queue import DEFAULT_QUEUE

app = Typer()


@app.command()
def acl(
    passwords: Annotated[
        Path | None,
        Option(
            help="A folder with a file for each user, of the user's name, that holds the password."
            " Only its SHA-256 is printed.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Print an ACL file for Redis 7.2 or newer, or Valkey: a user for each part, with its rights.

    The rights follow from the settings. Without passwords, the file has SHA256-OF-THE-PASSWORD in
    their place, and Redis refuses it until that is replaced.
    """
    settings = load_settings()
    if re.search(r"\s", settings.event_stream):
        raise refuse(f"{PREFIX}EVENT_STREAM: an ACL can't name a stream with white space", code=2)
    # With a user that needs no password, Redis would refuse connections from other machines.
    lines = ["user default off resetpass resetkeys resetchannels -@all"]
    for user, needs in users(settings).items():
        password = "SHA256-OF-THE-PASSWORD" if passwords is None else _hash(passwords / user)
        lines.append(f"user {user} on #{password} {' '.join(needs.rules)}")
    echo("\n".join(lines))


def _hash(file: Path) -> str:
    """Return the SHA-256 of the password in a file."""
    password = file.read_text(encoding="utf-8").strip()
    if not password:
        raise refuse(f"{file}: is empty", code=2)
    return sha256(password.encode()).hexdigest()


def users(settings: Settings) -> dict[str, Access]:
    """Return what each user needs of Redis, by name.

    All users have the same rights on each server: the broker, the stream and the results may be on
    one or on several.
    """
    db = 0 if settings.broker_url is None else settings.broker_url.db
    also = [] if settings.also_consume is None else [settings.also_consume]
    public = [Queue.CARDS, Queue.BULK, *also]
    all_queues = sorted({*QUEUES.values(), *also})
    stream = settings.event_stream
    return {
        "producer": access.producing(public),
        "querying-producer": access.querying(public),
        "reader": access.reading(stream),
        "relay": access.streaming(stream),
        "worker": _with(
            _with_results(access.consuming(all_queues, db=db)),
            access.observing(all_queues, stream),
        ),
        "beat": access.publishing(sorted({QUEUES[sweep] for sweep in SWEEPS})),
        "flower": access.monitoring(all_queues, db=db),
        "operator": _with(
            _operating(all_queues, stream), access.observing([*all_queues, DEFAULT_QUEUE], stream)
        ),
        # For a check whether the server is alive.
        "health": Access(keys=[]),
    }


def _with(part: Access, also: Access) -> Access:
    return part._replace(keys=[*part.keys, *also.keys], more=f"{part.more} {also.more}")


def _with_results(worker: Access) -> Access:
    return worker._replace(
        keys=[*worker.keys, f"~{access.RESULTS}"],
        channels=[*worker.channels, access.RESULTS],
        more=f"{worker.more} set",
    )


def _operating(queues: list[str], stream: str) -> Access:
    """Return the needs of the command line, and of the trimming of the stream."""
    producer, reader = access.producing(queues), access.reading(stream)
    return Access(
        keys=[*producer.keys, *reader.keys],
        more=f"{producer.more} {reader.more} time xtrim",
        selector="~inflight.aside.of.* +unlink",
    )
