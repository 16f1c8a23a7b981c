"""Sending commands and reading events on a fake Redis, without a worker."""

import base64
import json
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from card_worker.cli import app
from card_worker.client import STREAM, Client
from card_worker.contracts.cards import ActivateCard, BlockCard, UpdateCard
from card_worker.contracts.commands import APPLY, SWEEP_CARDS
from card_worker.contracts.enums import EventType
from card_worker.contracts.envelope import MESSAGE_BYTES_MAX, call_of
from card_worker.money import Currency
from card_worker.redis_url import RedisAddress
from card_worker.secrets.signing import NotAKey, SigningKey, ed25519_verifier
from card_worker.sinks import RedisStream
from card_worker.storage.outbox import Unpublished
from card_worker.streams import FIELDS

ACCOUNT, OTHER_ACCOUNT = "T00000001", "T00000002"


def event(number: int, account_id: str = ACCOUNT) -> Unpublished:
    id = UUID(int=number)
    about: dict[str, Any] = {
        "id": str(id),
        "type": "card.created",
        "subject": f"card-{number}",
        "data": {},
        "source": f"/card-worker/{account_id}",
    }
    about |= {"time": "2026-11-22T10:00:00Z", "correlationid": f"c-{number}", "answer": True}
    text = json.dumps(about)
    type = EventType.CARD_CREATED
    return Unpublished(number, id, account_id, type, f"card-{number}", text)


def publish(url: str, *events: Unpublished) -> None:
    sink = RedisStream(RedisAddress.parse(url), STREAM, entries_max=1_000_000, keep_s=604_800)
    sink.publish(events)
    sink.close()


@pytest.fixture
def published(fake_redis_url: str) -> list[Unpublished]:
    """Three events that a relay's sink has put on the stream."""
    events = [event(number) for number in (1, 2, 3)]
    publish(fake_redis_url, *events)
    return events


def run(url: str, *arguments: str) -> Result:
    settings = {"CARD_WORKER_BROKER_URL": url, "CARD_WORKER_DATABASE_URL": "sqlite:////nowhere"}
    return CliRunner().invoke(app, arguments, env=settings)


def on_queue(redis: Redis, queue: str) -> list[Any]:
    """Return the fields of each message, the oldest first."""
    messages = [json.loads(raw) for raw in reversed(redis.lrange(queue, 0, -1))]
    return [json.loads(base64.b64decode(message["body"]))[1] for message in messages]


def test_an_entry_of_the_stream_has_the_fields_of_its_event(
    published: list[Unpublished], fake_redis: Redis
) -> None:
    entries: Any = fake_redis.xrange(STREAM)
    expected = [(str(e.id), e.type, e.account_id, e.subject, e.event) for e in published]
    assert [tuple(entry[name] for name in FIELDS) for _, entry in entries] == expected


def test_tail_prints_as_many_events_as_asked_for(
    published: list[Unpublished], fake_redis_url: str
) -> None:
    done = run(fake_redis_url, "events", "tail", "--from-start", "--count", "2", "--json")
    assert done.exit_code == 0, done.output
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown == [json.loads(each.event) for each in published[:2]]
    done = run(fake_redis_url, "events", "tail", "--from-start", "--timeout", "0.2")
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [
        ["card.created", each.subject] for each in published
    ]


def test_tail_without_from_start_prints_only_later_events(
    published: list[Unpublished], fake_redis_url: str
) -> None:
    done = run(fake_redis_url, "events", "tail", "--timeout", "0.2")
    assert (done.exit_code, done.stdout) == (0, "")


def test_a_client_finds_answers_by_their_command(
    published: list[Unpublished], fake_redis_url: str
) -> None:
    with Client(fake_redis_url) as client:
        answers = client.answers(["c-3", "c-1"], account_id=ACCOUNT, after="0-0", timeout_s=60)
    assert {name: answer["subject"] for name, answer in answers.items()} == {
        "c-1": "card-1",
        "c-3": "card-3",
    }


def test_a_client_finds_only_answers_of_the_account(fake_redis_url: str) -> None:
    publish(fake_redis_url, event(1, OTHER_ACCOUNT), event(1))
    with Client(fake_redis_url) as client:
        for account_id in (ACCOUNT, OTHER_ACCOUNT):
            answers = client.answers(["c-1"], account_id=account_id, after="0-0", timeout_s=60)
            assert answers["c-1"]["source"] == f"/card-worker/{account_id}"


def test_answers_that_are_there_are_found_without_waiting(
    published: list[Unpublished], fake_redis_url: str
) -> None:
    with Client(fake_redis_url) as client:
        answers = client.answers(["c-3", "c-4"], account_id=ACCOUNT, after="0-0", timeout_s=0)
    assert answers.keys() == {"c-3"}


def test_a_client_finds_answers_of_several_accounts(fake_redis_url: str) -> None:
    publish(fake_redis_url, event(1, OTHER_ACCOUNT), event(1), event(2))
    keys = [(ACCOUNT, "c-1"), (OTHER_ACCOUNT, "c-1"), (OTHER_ACCOUNT, "c-2")]
    with Client(fake_redis_url) as client:
        answers = client.answers_of_accounts(keys, after="0-0", timeout_s=0)
    sources = {key: answer["source"] for key, answer in answers.items()}
    assert sources == {key: f"/card-worker/{key[0]}" for key in keys[:2]}


@pytest.mark.parametrize(
    ("command_ids", "account_id", "problem"),
    [
        ("u1", ACCOUNT, "command_ids must be a list"),
        (["u1"], "P1", "account_id must be P or T"),
        (["u1"], f" {ACCOUNT}", "account_id must be P or T"),
    ],
)
def test_ids_of_a_wrong_form_are_an_error(
    command_ids: Any, account_id: str, problem: str, fake_redis_url: str
) -> None:
    with Client(fake_redis_url) as client, pytest.raises((TypeError, ValueError), match=problem):
        client.answers(command_ids, account_id=account_id, after="0-0", timeout_s=0)


def test_no_answers_are_awaited_for_no_commands(fake_redis_url: str) -> None:
    with Client(fake_redis_url) as client:
        assert client.answers([], account_id=ACCOUNT, after="0-0", timeout_s=3600) == {}


def test_commands_lie_on_their_queue_in_order(fake_redis_url: str, fake_redis: Redis) -> None:
    names = ["a", "b", "c"]
    commands = [
        UpdateCard(account_id=ACCOUNT, command_id=name, card_id=name, name="N") for name in names
    ]
    with Client(fake_redis_url) as client:
        client.send(commands)
        client.send(
            ActivateCard(
                account_id=ACCOUNT,
                command_id="d",
                card_id="d",
                amount=500,
                currency=Currency.NOK,
            )
        )
        assert client.send_list(commands) == 1
    sent = on_queue(fake_redis, "cards")
    assert [fields["command_id"] for fields in sent] == [*names, "d"]
    assert sent[-1]["amount"] == 500
    (listed,) = on_queue(fake_redis, "cards.bulk")
    assert [fields["command_id"] for fields in listed["commands"]] == names


def test_a_client_with_a_key_signs_commands_lists_and_queries(
    fake_redis_url: str, fake_redis: Redis
) -> None:
    key = SigningKey.new("shop-1")
    verify = ed25519_verifier(key.public_key)
    block = BlockCard(account_id=ACCOUNT, command_id="b", card_id="å", reason='"lost"')
    with Client(fake_redis_url, key=key) as client:
        client.send(block)
        client.send([block])
        client.send_list([block])
        client.publish("cards.get", {"account_id": ACCOUNT, "command_id": "q", "card_id": "å"})
        client.publish("cards.get", {"account_id": ACCOUNT, "card_id": "å"})
        client.publish(SWEEP_CARDS, {})
    messages = [json.loads(raw) for raw in reversed(fake_redis.lrange("cards", 0, -1))]
    ids = [message["headers"]["id"] for message in messages]
    assert ids[:3] == ["b", "b", "q"]
    tasks = ["cards.block", "cards.block", "cards.get", "cards.get"]
    sent = list(zip(tasks, on_queue(fake_redis, "cards"), strict=True))
    sent += [(APPLY, each) for each in on_queue(fake_redis, "cards.bulk")]
    read = []
    for task, kwargs in sent:
        call = call_of(task, kwargs)
        assert call.signature is not None
        assert verify(call.signature.base, call.signature.value)
        read.append(call.kwargs)
    fields = {"account_id": ACCOUNT, "command_id": "b", "card_id": "å", "reason": '"lost"'}
    assert read[:2] == [fields] * 2
    assert [each["command_id"] for each in read[2:4]] == ids[2:]
    assert read[4] == {"commands": [{"command": "cards.block", **fields}]}
    assert on_queue(fake_redis, "cards.system") == [{}]  # what beat sends is not signed


def test_signed_lists_fit_into_messages(fake_redis_url: str, fake_redis: Redis) -> None:
    updates = [
        UpdateCard(account_id=ACCOUNT, command_id=f"u{n}", card_id="c", metadata={'"': '"' * 800})
        for n in range(600)
    ]
    counts = []
    for key in (None, SigningKey.new("shop-1")):
        with Client(fake_redis_url, key=key) as client:
            counts.append(client.send_list(updates))
    assert counts == [1, 2]
    for raw in fake_redis.lrange("cards.bulk", 0, -1):
        assert len(base64.b64decode(json.loads(raw)["body"])) <= MESSAGE_BYTES_MAX


def test_a_client_takes_the_path_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "shop.json"
    file.write_text("{}")
    with pytest.raises(NotAKey, match="is not a key file"):
        Client("redis://127.0.0.1:1/0", key=file)
    command = ("cards.block", f"account_id={ACCOUNT}", "--key", str(file))
    done = run("redis://127.0.0.1:1/0", "send", *command)
    assert (done.exit_code, done.stderr.strip()) == (
        1,
        f"card-worker: {file}: is not a key file: JSON with the texts key_id and secret",
    )


@pytest.mark.parametrize("given", [{"customer_id": None}, {"name": "N", "metadata": None}])
def test_a_null_that_was_given_is_sent(
    given: dict[str, Any], fake_redis_url: str, fake_redis: Redis
) -> None:
    about = {"account_id": ACCOUNT, "command_id": "u", "card_id": "c"}
    update = UpdateCard.model_validate(about | given)
    with Client(fake_redis_url) as client:
        client.send(update)
        client.send_list([update])
    (sent,) = on_queue(fake_redis, "cards")
    (listed,) = on_queue(fake_redis, "cards.bulk")
    assert sent == about | given
    assert listed["commands"] == [{"command": "cards.update"} | sent]


def test_send_prints_the_id_of_what_it_put_on_the_queue(
    fake_redis_url: str, fake_redis: Redis
) -> None:
    fields = (f"account_id={ACCOUNT}", "card_id=a", "amount=500", "currency=NOK", "command_id=k")
    done = run(fake_redis_url, "send", "cards.create", *fields)
    assert done.exit_code == 0, done.output
    assert "k" in done.output
    (sent,) = on_queue(fake_redis, "cards")
    assert (sent["card_id"], sent["amount"]) == ("a", 500)


def listed(*ids: tuple[str, str]) -> str:
    """Return commands with these account_ids and command_ids as an argument of `send`."""
    commands = [
        {"command": "cards.block", "account_id": account, "command_id": command, "card_id": "c"}
        for account, command in ids
    ]
    return f"commands={json.dumps(commands)}"


def test_send_waits_once_for_all_accounts(fake_redis_url: str) -> None:
    accounts, started = 100, monotonic()
    commands = listed(*((f"T{n:08}", "block") for n in range(accounts)))
    done = run(fake_redis_url, "send", "commands.apply", commands, "--wait", "--timeout", "0")
    assert (done.exit_code, "100 of 100 answers did not come" in done.stderr) == (1, True)
    assert monotonic() - started < accounts / 2


@pytest.mark.parametrize("options", [(), ("--wait",)])
@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ("[]", "commands is missing, empty, or not a JSON list"),
        ('[{"command_id": "a"}, {"command": "cards.block"}]', "command 2 has no command_id"),
        ("[5]", "command 1 has no command_id"),
    ],
)
def test_a_list_that_can_not_be_answered_is_refused(
    commands: str, why: str, options: tuple[str, ...], fake_redis_url: str, fake_redis: Redis
) -> None:
    done = run(fake_redis_url, "send", "commands.apply", f"commands={commands}", *options)
    assert (done.exit_code, why in done.stderr, done.stdout) == (2, True, "")
    assert fake_redis.llen("cards.bulk") == 0


def test_the_same_command_twice_in_a_list_has_one_answer(fake_redis_url: str) -> None:
    commands = listed((ACCOUNT, "a"), (ACCOUNT, "a"), (OTHER_ACCOUNT, "a"))
    done = run(fake_redis_url, "send", "commands.apply", commands, "--wait", "--timeout", "0")
    assert (done.exit_code, "2 of 2 answers did not" in done.stderr) == (1, True)
