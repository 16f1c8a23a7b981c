"""PIN attempts on their way through a worker: what is stored, and what a refusal takes."""

from typing import Any

import pytest
from sqlalchemy import Engine, select

from card_worker.secrets.signing import SigningKey
from card_worker.storage.engine import open_engine, reading
from card_worker.storage.tables import pin_attempts
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Answered, Failed, Message, QueryAnswered
from tests.codes import PIN, SEAL_TO, VAULT, WRONG_PIN
from tests.flow import defects
from tests.producers import ed25519_key, register, signed
from tests.producers import message as read
from tests.storage.statements import tracing
from tests.storage.test_codes import (
    ACCOUNT,
    answer_types,
    command,
    create,
    pay,
    rows,
    store_attempts,
)

KEY = ed25519_key()
TOKENS = ("wrong", "blocked", "closed", "held", "locked", "inactive", "unknown")
"""Whose card has the tokens TOKEN-0, TOKEN-1 …"""


def test_a_pin_attempt_is_stored_before_the_pin_is_compared(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    assert answer_types(engine, create("defect", card_token={}, pin={})) == ["card.created"]
    defects.plant(engine)
    asked = {"account_id": ACCOUNT, "token": "TOKEN-0", "pin": WRONG_PIN}
    amount = {"amount": 1, "currency": "NOK"}
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    # The fifth wrong one would lock the PIN of the card, which can't be written to any more.
    for number in range(5):
        kwargs = {**asked, **amount, "ref_id": f"r{number}"}
        message = Message(
            task="transactions.create", id=f"m{number}", queue="cards", kwargs=kwargs, body=b""
        )
        (outcome,) = delivery.deliver([message])
    assert isinstance(outcome, Failed)
    with reading(engine) as connection:
        outcomes = connection.execute(
            select(pin_attempts.c.outcome).order_by(pin_attempts.c.number)
        )
        assert [outcome.value for (outcome,) in outcomes] == ["wrong"] * 4 + ["open"]
    engine.dispose()


def test_no_pin_is_compared_after_five_open_attempts(engine: Engine) -> None:
    assert answer_types(engine, create("A1", card_token={}, pin={})) == ["card.created"]
    for number in range(5):
        store_attempts(engine, pay(f"r{number}", pin=WRONG_PIN))  # and then its worker died
    assert answer_types(engine, pay("right", pin=PIN)) == ["card_not_usable"]
    # Once they are judged, the PIN is locked as if they had come one by one.
    told = [answer_types(engine, pay(f"r{number}", pin=WRONG_PIN)) for number in range(5)]
    assert told == [["card_not_usable"]] * 5
    with reading(engine) as connection:
        outcomes = connection.execute(
            select(pin_attempts.c.outcome).order_by(pin_attempts.c.number)
        )
        assert [outcome.value for (outcome,) in outcomes] == ["wrong"] * 5 + ["cleared"]


@pytest.mark.parametrize("task", ["transactions.create", "cards.get", "transactions.list"])
@pytest.mark.parametrize(("pin", "key"), [(WRONG_PIN, None), (None, None), (WRONG_PIN, KEY)])
def test_each_refused_token_takes_the_same_statements_and_commits(
    engine: Engine, task: str, pin: str | None, key: SigningKey | None
) -> None:
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    register(engine, KEY)
    make_cards(engine, delivery)
    attempts = len(rows(engine, pin_attempts))
    traces = dict[str, list[str]]()
    for number, name in enumerate(TOKENS):
        if pin is None and name in ("wrong", "held"):
            continue  # told openly: `pin_required`
        with tracing(engine) as traces[name]:
            assert reason(delivery, task, f"m-{name}", number, pin, key=key) == "card_not_usable"
    assert traces["unknown"].count("COMMIT") == (1 if pin is None else 2)
    for name, trace in traces.items():
        assert trace == traces["unknown"], name
    # A query about nothing leaves no row.
    stored = 0 if pin is None else len(TOKENS) - (task != "transactions.create")
    assert len(rows(engine, pin_attempts)) == attempts + stored


def make_cards(engine: Engine, delivery: Delivery) -> None:
    """Make the cards of TOKENS."""
    codes: dict[str, Any] = {"card_token": {}, "pin": {}}
    listed = [{"card_id": "inactive"}]
    order = command("cards.batch_create", "o", cards=listed, options=codes, **SEAL_TO)
    answer_types(engine, *(create(name, **codes) for name in TOKENS[:5]), order)
    hold = {"card_id": "held", "amount": 1, "currency": "NOK", "pending": True, "ref_id": "h"}
    why = {"reason": "lost"}
    done = answer_types(
        engine,
        command("cards.block", "b", card_id="blocked", **why),
        command("cards.close", "c", card_id="closed", **why),
        command("transactions.create", "h", **hold),
    )
    assert done == ["card.blocked", "card.closed", "hold.placed"]
    for number in range(5):
        reason(delivery, "transactions.create", f"l{number}", TOKENS.index("locked"), WRONG_PIN)


def reason(
    delivery: Delivery,
    task: str,
    id: str,
    number: int,
    pin: str | None,
    *,
    key: SigningKey | None = None,
) -> str:
    """Deliver a message with a token and a PIN; return why it is refused."""
    kwargs: dict[str, Any] = {"account_id": ACCOUNT, "token": f"TOKEN-{number}"}
    if pin is not None:
        kwargs["pin"] = pin
    if task == "transactions.create":
        kwargs |= {"amount": 1, "currency": "NOK", "ref_id": id}
    if key is not None:
        kwargs = signed(key, task, {"command_id": id, **kwargs})
    (outcome,) = delivery.deliver([read(task, kwargs, id)])
    if isinstance(outcome, QueryAnswered):
        return str(outcome.result["reason"])
    assert isinstance(outcome, Answered)
    return str(outcome.answers[0].reason)
