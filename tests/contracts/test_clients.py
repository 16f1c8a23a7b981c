"""What a stock Celery client really sends: accepted, unless it would steer the worker."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.message import Message

from card_worker.client import sliced
from card_worker.contracts.batches import ApproveBatch, BatchCard, CreateBatch
from card_worker.contracts.cards import ActivateCard
from card_worker.contracts.commands import APPLY, COMMANDS, InvalidCommand
from card_worker.contracts.dead_letters import Unreadable
from card_worker.contracts.envelope import Call, read_envelope
from card_worker.contracts.message import read_commands

GOOD = {"account_id": "T00000001", "card_id": "card-01", "amount": 500, "currency": "NOK"}


@pytest.fixture(scope="module")
def client() -> Iterator[Celery]:
    """A Celery client that knows nothing but a broker in this process's memory."""
    with Celery(broker="memory://", set_as_current=False) as app:
        yield app


def sent(client: Celery, **options: Any) -> Message:
    """Return a message as its receiver gets it."""
    queue = uuid4().hex
    client.send_task("cards.activate", queue=queue, **options)
    with Connection("memory://") as connection:
        message: Message | None = connection.default_channel.basic_get(queue, no_ack=True)
    assert message is not None
    return message


def read(**fields: Any) -> ActivateCard:
    (command,) = read_commands("cards.activate", "message-1", fields)
    assert isinstance(command, ActivateCard)
    return command


def call_in(message: Message) -> Call:
    return read_envelope(
        message.headers,
        message.body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        tasks=frozenset(COMMANDS),
    )


@pytest.mark.parametrize("ignore_result", [True, False])
@pytest.mark.parametrize("serializer", [None, "json"])
def test_what_a_stock_client_sends_passes(
    client: Celery, ignore_result: bool, serializer: str | None
) -> None:
    message = sent(client, kwargs=GOOD, ignore_result=ignore_result, serializer=serializer)
    assert not call_in(message).conditions.problems
    assert message.headers["ignore_result"] is ignore_result
    _, kwargs, _ = message.payload
    assert read(**kwargs) == read(**GOOD)


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 1},
        {"time_limit": 1},
        {"soft_time_limit": 1},
        {"chord": {"task": "x"}},
        {"link": {"task": "x"}},
        {"link_error": {"task": "x"}},
        {"args": (1,)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_stock_client_asks_for_and_is_not_done_is_a_problem(
    client: Celery, options: dict[str, Any]
) -> None:
    call = call_in(sent(client, kwargs=GOOD, **options))
    assert len(call.conditions.problems) == 1
    assert call.kwargs == GOOD


@pytest.mark.parametrize(
    "options",
    [{"shadow": "x"}, {"retries": 1}, {"group_id": "x"}, {"headers": {"mine": 1}}],
    ids=lambda options: next(iter(options)),
)
def test_what_concerns_only_the_client_is_ignored(client: Celery, options: dict[str, Any]) -> None:
    assert call_in(sent(client, kwargs=GOOD, **options)) == Call(GOOD)


def test_the_expires_of_a_stock_client_is_a_deadline(client: Celery) -> None:
    before = datetime.now(UTC)
    call = call_in(sent(client, kwargs=GOOD, expires=60))
    assert call.conditions.deadline is not None
    assert (
        before + timedelta(seconds=59) < call.conditions.deadline < before + timedelta(seconds=600)
    )
    assert not call.conditions.problems


def test_a_pickle_of_a_stock_client_is_unreadable(client: Celery) -> None:
    with pytest.raises(Unreadable):
        call_in(sent(client, kwargs=GOOD, serializer="pickle"))


def cards(count: int, batch_id: str) -> CreateBatch:
    listed = tuple(BatchCard(card_id=f"{batch_id}-{number}") for number in range(count))
    return CreateBatch(account_id="T00000001", command_id=batch_id, cards=listed)


def test_lists_of_a_client_have_room_for_all_that_is_in_them() -> None:
    approvals = [
        ApproveBatch(account_id="T00000001", command_id=f"a{n}", batch_id="b") for n in range(25)
    ]
    activations = [ActivateCard.model_validate({**GOOD, "command_id": f"c{n}"}) for n in range(990)]
    assert [len(part) for part in sliced([*activations, *approvals])] == [1_000, 10, 5]
    assert [len(part) for part in sliced([*approvals, *activations])] == [10, 10, 995]
    batches = [cards(count, f"b{count}") for count in (600, 401, 400, 199, 1_000)]
    assert [len(part) for part in sliced(batches)] == [1, 3, 1]
    for part in sliced([*batches, *approvals]):
        read = read_commands(APPLY, "m", {"commands": part})
        assert not any(isinstance(one, InvalidCommand) for one in read)


def test_python_producers_may_pass_times_and_uuids(client: Celery) -> None:
    end, key = datetime(2030, 1, 1, tzinfo=UTC), uuid4()
    message = sent(client, kwargs={**GOOD, "expires_at": end, "command_id": key})
    assert not call_in(message).conditions.problems
    command = read(**message.payload[1])
    assert (command.expires_at, command.command_id) == (end, str(key))
    written = {"expires_at": "2030-01-01T00:00:00Z", "command_id": str(key)}
    assert command == read(**GOOD, **written)
