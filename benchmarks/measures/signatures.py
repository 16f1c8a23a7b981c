"""What a signature costs: to verify one, and beside the whole work for a command."""

from functools import partial
from timeit import repeat
from typing import Any, NamedTuple

from benchmarks.commands import command
from benchmarks.contestants import OURS, OURS_SIGNED
from benchmarks.results import Result, compare
from benchmarks.rounds import Size, interleaved
from benchmarks.signing import ED25519, HMAC, PEPPERS, register, signed
from benchmarks.stage import Stage
from benchmarks.turns import activation_turn, cpu_of_all
from card_worker.contracts.commands import APPLY
from card_worker.contracts.signatures import read_signature
from card_worker.secrets.signing import SigningKey
from card_worker.storage.engine import open_engine
from card_worker.worker.retries import Retries
from card_worker.worker.senders import Senders

LISTED = 500
SAMPLES, COMMANDS = 200, 500
"""Each round times so many samples of so many commands; the fastest sample counts."""
TASK, ONE = "cards.activate", command(0)
LIST = {"commands": [{"command": TASK, **command(number)} for number in range(LISTED)]}


class Microseconds(float):
    """The time for one command."""

    def __str__(self) -> str:
        return f"{float(self):.2f} µs"


class Message(NamedTuple):
    """A kind of signed message, and how long its verification may take for each command."""

    name: str
    key: SigningKey
    task: str
    fields: dict[str, Any]
    commands: int
    us_max: float


MESSAGES = (
    Message("an HMAC message", HMAC, TASK, ONE, 1, 8),
    Message("an Ed25519 message", ED25519, TASK, ONE, 1, 130),
    Message(f"a command in {LISTED}, HMAC", HMAC, APPLY, LIST, LISTED, 1),
    Message(f"a command in {LISTED}, Ed25519", ED25519, APPLY, LIST, LISTED, 1),
)


def run(stage: Stage, size: Size) -> list[Result]:
    """Compare verifications with what they may take, and signed activations with unsigned ones."""
    return [*_verifications(stage, size), *_activations(stage, size)]


def _verifications(stage: Stage, size: Size) -> list[Result]:
    with stage.place() as place:
        engine = open_engine(place.database_url)
        register(engine)
        senders = Senders(engine, Retries(lambda: False), PEPPERS, is_required=True)
        play = {each.name: partial(_verify, senders, each) for each in MESSAGES}
        taken = interleaved(play, size.rounds)
        engine.dispose()
    return [
        compare(
            f"verifying {each.name} / {each.us_max:g} µs",
            taken[each.name],
            [each.us_max] * size.rounds,
            "µs",
            at_most=1,
        )
        for each in MESSAGES
    ]


def _verify(senders: Senders, message: Message) -> Microseconds:
    kwargs = signed(message.key, message.task, message.fields)

    def verify() -> None:
        senders.authenticate(read_signature(message.task, kwargs))

    calls = COMMANDS // message.commands
    seconds = min(repeat(verify, number=calls, repeat=SAMPLES))
    return Microseconds(seconds * 1e6 / (calls * message.commands))


def _activations(stage: Stage, size: Size) -> list[Result]:
    contestants = (OURS, OURS_SIGNED)
    play = {one.name: partial(activation_turn, stage, one, scale=size.scale) for one in contestants}
    turns = interleaved(play, size.rounds)
    ours, plain = turns[OURS_SIGNED.name], turns[OURS.name]
    ours_per_s, plain_per_s = ([turn.per_s for turn in each] for each in (ours, plain))
    name, unit = "activations, signed with HMAC / unsigned", "CPU s per 10,000"
    return [
        compare(name, ours_per_s, plain_per_s, "commands/s", at_least=0.95),
        compare("… their CPU", cpu_of_all(ours), cpu_of_all(plain), unit),
    ]
