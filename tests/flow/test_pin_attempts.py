"""A PIN attempt is stored even if the commit that compared the PIN fails."""

from sqlalchemy import Engine, select

from card_worker.storage.engine import open_engine, reading
from card_worker.storage.tables import pin_attempts
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Failed, Message
from tests.codes import PIN, VAULT, WRONG_PIN
from tests.flow import defects
from tests.storage.test_codes import ACCOUNT, answer_types, create, pay, store_attempts


def test_a_pin_attempt_is_stored_before_the_pin_is_compared(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    assert answer_types(engine, create("defect", card_token={}, pin={})) == ["card.created"]
    defects.plant(engine)
    asked = {"account_id": ACCOUNT, "token": "TOKEN-0", "pin": WRONG_PIN}
    amount = {"amount": 1, "currency": "NOK"}
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    # The fifth wrong one would block the card, which can't be written to any more.
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
    # Once they are judged, the card is blocked as if they had come one by one.
    told = [answer_types(engine, pay(f"r{number}", pin=WRONG_PIN)) for number in range(5)]
    assert told == [["card_not_usable"]] * 5
    with reading(engine) as connection:
        outcomes = connection.execute(
            select(pin_attempts.c.outcome).order_by(pin_attempts.c.number)
        )
        assert [outcome.value for (outcome,) in outcomes] == ["wrong"] * 5 + ["cleared"]
