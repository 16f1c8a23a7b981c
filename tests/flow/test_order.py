"""The commands on a card keep their order, also if messages are started alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, make_url, text

from card_worker.storage.engine import open_engine
from card_worker.worker.delivery import Delivery
from card_worker.worker.messages import Answered, Message, Outcome, Returned, Waiting
from tests.codes import VAULT
from tests.flow.system import ACCOUNT, card
from tests.proxy import proxy

FRESH, OFTEN = 0, 2
"""Of how many workers' deaths a message comes back: with others, or alone."""


def message(task: str, id: str, deaths: int = FRESH, **fields: Any) -> Message:
    kwargs = {"account_id": ACCOUNT, **fields}
    return Message(
        task=task, id=id, queue="cards", kwargs=kwargs, body=b"", returns=deaths, deaths=deaths
    )


def create(deaths: int = FRESH) -> Message:
    return message("cards.batch_create", "create", deaths, cards=[{"card_id": "card"}])


def activate(deaths: int = FRESH) -> Message:
    return message("cards.activate", "activate", deaths, **card("card"))


def draw(id: str, deaths: int = FRESH, **fields: Any) -> Message:
    money = {"amount": 10, "currency": "NOK", "ref_id": id}
    return message("transactions.create", id, deaths, card_id="card", **money, **fields)


def types(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what messages were answered, with the reason of a refusal."""
    assert all(isinstance(outcome, Answered) for outcome in outcomes)
    answers = [one for end in outcomes if isinstance(end, Answered) for one in end.answers]
    return [str(one.reason or one.type) for one in answers]


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM cards FOR UPDATE"))
        yield


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Engine]:
    engine = open_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    "deaths", [(FRESH, FRESH, OFTEN), (FRESH, OFTEN, FRESH), (OFTEN, FRESH, OFTEN), (OFTEN,) * 3]
)
def test_a_message_that_is_started_alone_keeps_its_place(
    engine: Engine, deaths: Sequence[int]
) -> None:
    first, second, third = deaths
    delivery = Delivery(engine, lambda: False, vault=VAULT)
    outcomes = delivery.deliver([create(first), activate(second), draw("draw", third)])
    assert types(outcomes) == ["batch.completed", "card.activated", "card.drawn_down"]


@pytest.mark.parametrize("deaths", [(FRESH, OFTEN), (OFTEN, FRESH), (OFTEN, OFTEN)])
def test_nothing_passes_a_message_that_goes_back_to_its_queue(
    postgres_url: str, deaths: Sequence[int]
) -> None:
    address = make_url(postgres_url)
    assert address.port is not None
    with proxy(address.port) as between:
        engine = open_engine(address.set(port=between.port).render_as_string(hide_password=False))
        is_up, is_stopping = [True], [False]

        def stopping() -> bool:
            if not is_up[0]:
                # The database comes back in the moment in which the worker is told to stop.
                between.accept()
                is_up[0] = is_stopping[0] = True
            return is_stopping[0]

        delivery = Delivery(engine, stopping, vault=VAULT)
        assert types(delivery.deliver([create()])) == ["batch.completed"]
        engine.dispose()
        between.refuse()
        is_up[0] = False
        asked = [activate(deaths[0]), draw("draw", deaths[1])]
        assert delivery.deliver(asked) == [Returned(), Returned()]
        is_stopping[0] = False
        assert types(delivery.deliver(asked)) == ["card.activated", "card.drawn_down"]
        engine.dispose()


@pytest.mark.parametrize("first", [FRESH, OFTEN])
@pytest.mark.parametrize("second", [FRESH, OFTEN])
def test_nothing_passes_a_message_of_an_earlier_group_that_waits(
    postgres: Engine, first: int, second: int
) -> None:
    delivery = Delivery(postgres, lambda: False, vault=VAULT)
    *_, held = delivery.deliver([create(), activate(), draw("held", pending=True)])
    assert isinstance(held, Answered)
    hold = str(held.answers[0].id)
    earlier = draw("earlier", first)
    with locked(postgres):
        (waiting,) = delivery.deliver([earlier])
    assert isinstance(waiting, Waiting)
    # The card is free again, and a later group needs it, whatever name it has there.
    later = [
        draw("later", second),
        message("transactions.void", "void", second, transaction_id=hold, ref_id="v"),
    ]
    other = message("cards.create", "other", second, **card("other"))
    outcomes = delivery.deliver([*later, other], waiting.rows)
    assert [type(outcome) for outcome in outcomes] == [Waiting, Waiting, Answered]
    assert types(delivery.deliver([earlier, *later])) == [
        *("card.drawn_down", "card.drawn_down", "hold.voided")
    ]
