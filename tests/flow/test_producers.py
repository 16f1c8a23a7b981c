"""Any producer that uses Celery's protocol, or writes JSON to a Redis list, gets answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import KombuError
from redis import Redis
from sqlalchemy import text

from card_worker.client import Client
from card_worker.contracts.batches import BatchCard, CreateBatch
from card_worker.contracts.cards import ActivateCard, UpdateCard
from card_worker.embedded.valkey import valkey
from card_worker.money import Currency
from card_worker.storage.engine import reading
from tests.flow.processes import WAIT_S
from tests.flow.system import ACCOUNT, System, card, envelope, system

LISTED = 2_500


@pytest.fixture(scope="module")
def running(shared: System) -> System:
    """A worker that keeps results, and a relay."""
    shared.start("worker", RESULT_BACKEND_URL=shared.broker_url)
    shared.start("relay")
    return shared


BARE = """
import json, sys, time
from celery import Celery
from redis import Redis
from sqlalchemy import text

url = sys.argv[1]
celery = Celery(broker=url)
celery.send_task("cards.batch_create", queue="cards.bulk", kwargs={
    "account_id": "T00000001", "command_id": "bare-batch", "cards": [{"card_id": "bare-card"}]})

redis, after, answers = Redis.from_url(url, decode_responses=True), "0-0", {}

def answer_to(command_id):
    global after
    until = time.monotonic() + 60
    while command_id not in answers and time.monotonic() < until:
        for _, entries in redis.xread({"card-events": after}, block=500) or ():
            for after, entry in entries:
                event = json.loads(entry["event"])
                answers[event["correlationid"]] = event
    return answers[command_id]

batch = answer_to("bare-batch")
# Without a command_id the message's own id is the key.
sent = celery.send_task("cards.activate", queue="cards", kwargs={
    "account_id": "T00000001", "card_id": "bare-card", "amount": 50000, "currency": "NOK"})
print(json.dumps([batch, answer_to(sent.id), sent.id]))
assert not [name for name in sys.modules if name.startswith("card_worker")]
"""


def test_a_program_that_knows_only_celery_makes_a_batch_and_activates_its_card(
    running: System,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, running.broker_url],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    batch, activated, message_id = json.loads(done.stdout)
    assert batch["type"] == "batch.completed"
    assert activated["type"] == "card.activated"
    assert activated["data"]["command_id"] == message_id
    assert activated["data"]["card"]["amount_available"] == 50_000
    assert activated["sequence"] == "00000000000000000002"


def test_json_written_by_hand_onto_the_list_is_answered(running: System) -> None:
    running.push(envelope("cards.create", "hand-message", card("hand", command_id="hand-made")))
    answer = running.answers("hand-made")["hand-made"]
    assert answer["type"] == "card.created"
    (entry,) = [one for one in running.stream() if one["subject"] == "hand"]
    assert entry == {
        "id": answer["id"],
        "type": "card.created",
        "account_id": ACCOUNT,
        "subject": "hand",
        "event": entry["event"],
    }
    assert json.loads(entry["event"]) == answer


def test_a_body_that_is_not_wrapped_in_base64_is_answered_too(running: System) -> None:
    message = envelope("cards.create", "plain", {})
    message["body"] = json.dumps([[], card("plain"), {}])
    del message["properties"]["body_encoding"]
    running.push(message)
    assert running.types("plain") == ["card.created"]


def test_a_long_list_goes_out_in_three_messages_and_every_command_is_answered(
    running: System,
) -> None:
    names = [f"long-{number}" for number in range(LISTED)]
    batches = [
        CreateBatch(
            account_id=ACCOUNT,
            command_id=f"long-batch-{start}",
            cards=tuple(BatchCard(card_id=name) for name in names[start : start + 1000]),
        )
        for start in range(0, LISTED, 1000)
    ]
    activations = [
        ActivateCard(
            account_id=ACCOUNT, command_id=name, card_id=name, amount=100, currency=Currency.NOK
        )
        for name in names
    ]
    with Client(running.broker_url) as client:
        waiting: Any = {"account_id": ACCOUNT, "after": client.newest(), "timeout_s": 60}
        for batch in batches:
            client.send(batch)
        ordered = [batch.command_id for batch in batches]
        assert len(client.answers(ordered, **waiting)) == 3
        assert client.send_list(activations) == 3
        answers = client.answers(names, **waiting)
    assert answers.keys() == set(names)
    assert {answer["type"] for answer in answers.values()} == {"card.activated"}


def test_a_command_that_is_sent_again_gets_its_first_answer_again(running: System) -> None:
    activation = ActivateCard(
        account_id=ACCOUNT, command_id="twice", card_id="none", amount=1, currency=Currency.NOK
    )
    answers = list[dict[str, Any]]()
    with Client(running.broker_url) as client:
        for _ in range(3):
            after = client.newest()
            client.send(activation)
            answers += client.answers(
                ["twice"], account_id=ACCOUNT, after=after, timeout_s=WAIT_S
            ).values()
    assert answers[0] == answers[1] == answers[2]
    stored = 'SELECT count(*) FROM outbox WHERE event LIKE \'%"correlationid":"twice"%\''
    with reading(running.engine) as connection:
        assert connection.execute(text(stored)).scalar() == 1


def test_an_update_clears_a_field(running: System) -> None:
    running.create("cleared", name="Kari", customer_id="kari")
    update = UpdateCard(account_id=ACCOUNT, command_id="clear", card_id="cleared", name=None)
    with Client(running.broker_url) as client:
        running.answers("cleared")
        client.send(update)
    card = running.answers("clear")["clear"]["data"]["card"]
    assert (card["name"], card["customer_id"]) == (None, "kari")


def test_a_reference_under_another_command_id_gets_the_first_answer(running: System) -> None:
    running.create("repeated-card")
    payment = {"card_id": "repeated-card", "ref_id": "sale-1", "amount": 1, "currency": "NOK"}
    for command_id in ("pay-1", "pay-2", "pay-2"):
        running.send("transactions.create", command_id, **payment)
    first, again = running.answers("pay-1", "pay-2").values()
    assert (first["type"], again["type"]) == ("card.drawn_down", "command.repeated")
    assert again["data"]["event"] == first


def test_many_commands_go_out_together_each_as_a_message_of_its_own(
    running: System, broker_url: str
) -> None:
    asked = [
        ActivateCard(
            account_id=ACCOUNT, command_id=f"many-{n}", card_id="x", amount=1, currency=Currency.NOK
        )
        for n in range(2500)
    ]
    with Client(broker_url) as client, Redis.from_url(broker_url) as redis:
        before = redis.info("stats")["total_reads_processed"]
        client.send(iter(asked))
        # One by one they are one each.
        assert redis.info("stats")["total_reads_processed"] - before < len(asked) / 2
        waiting = [json.loads(raw) for raw in redis.lrange("cards", 0, -1)]
    assert [one["headers"]["id"] for one in reversed(waiting)] == [one.command_id for one in asked]
    assert {one["headers"]["kwargsrepr"] for one in waiting} == {"{}"}
    with Client(running.broker_url) as client:
        client.send(asked[:3])
    answered = running.types(*(one.command_id for one in asked[:3]))
    assert answered == ["card_not_found"] * 3


def test_an_unavailable_or_full_broker_raises_an_error(tmp_path: Path) -> None:
    asked = [
        ActivateCard(
            account_id=ACCOUNT, command_id=f"full-{n}", card_id="x", amount=1, currency=Currency.NOK
        )
        for n in range(10)
    ]
    with valkey(tmp_path) as server:
        with Client(server.url) as client, Redis.from_url(server.url) as redis:
            redis.config_set("maxmemory", 1)
            with pytest.raises(KombuError):
                client.send(asked)
            with pytest.raises(KombuError):
                client.send(asked[0])
            redis.config_set("maxmemory", 0)
            client.send(asked)
            assert redis.llen("cards") == 10
        url = server.url
    with Client(url) as client:
        for what in (asked, asked[0]):
            with pytest.raises(KombuError):
                client.send(what)


def test_the_answer_is_the_result_of_the_task(running: System, plain_celery_client: Celery) -> None:
    sent = plain_celery_client.send_task("cards.create", queue="cards", kwargs=card("asked"))
    assert sent.get(timeout=60) == running.answers(sent.id)[sent.id]
    assert sent.state == "SUCCESS"


def test_a_refusal_is_a_result_like_any_other(plain_celery_client: Celery) -> None:
    sent = plain_celery_client.send_task("cards.activate", queue="cards", kwargs=card("nowhere"))
    assert sent.get(timeout=60)["data"]["reason"] == "card_not_found"
    assert sent.state == "SUCCESS"


def test_a_command_delivered_again_has_the_first_answer_as_its_result(
    plain_celery_client: Celery,
) -> None:
    asked = card("again", command_id="again")
    first = plain_celery_client.send_task("cards.create", queue="cards", kwargs=asked)
    second = plain_celery_client.send_task("cards.create", queue="cards", kwargs=asked)
    assert first.get(timeout=60) == second.get(timeout=60)


def test_a_list_has_a_list_of_answers_as_its_result(plain_celery_client: Celery) -> None:
    parts = [
        {"command": "cards.create", "command_id": f"part-{number}", **card(card_id)}
        for number, card_id in enumerate(["part-a", "part-a", "part-b"])
    ]
    sent = plain_celery_client.send_task(
        "commands.apply", queue="cards.bulk", kwargs={"commands": parts}
    )
    answers = sent.get(timeout=60)
    assert [answer["correlationid"] for answer in answers] == ["part-0", "part-1", "part-2"]
    assert [answer["type"] for answer in answers] == [
        "card.created",
        "command.rejected",
        "card.created",
    ]


def test_only_a_dead_letter_is_a_failure(running: System, plain_celery_client: Celery) -> None:
    asked = card("no account", account_id=None)
    sent = plain_celery_client.send_task("cards.create", queue="cards", kwargs=asked)
    with pytest.raises(Exception, match="account_id_invalid"):
        sent.get(timeout=60)
    assert sent.state == "FAILURE"
    assert running.letter(sent.id).reason == "account_id_invalid"


def test_no_result_is_stored_with_ignore_result(
    running: System, plain_celery_client: Celery
) -> None:
    sent = plain_celery_client.send_task(
        "cards.create", queue="cards", kwargs=card("silent"), ignore_result=True
    )
    running.answers(sent.id)
    running.catches_up()
    assert not running.redis.exists(f"celery-task-meta-{sent.id}")


def test_the_same_on_sqlite(tmp_path: Path, sqlite_url: str, broker_url: str) -> None:
    with system(tmp_path, database_url=sqlite_url, broker_url=broker_url) as small:
        worker, relay = small.start("worker"), small.start("relay")
        small.create("small")
        small.send("cards.activate", "small-again", card_id="small", amount=1, currency="NOK")
        assert small.types("small", "small-again") == ["card.created", "card_already_active"]
        assert len(small.stream()) == 2
        assert (worker.stop(), relay.stop()) == (0, 0)
