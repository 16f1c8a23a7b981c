"""A healthy database in which everything has happened that can happen to cards and batches."""

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine

from card_worker.contracts.batches import APPROVAL_WITHIN
from card_worker.contracts.enums import Action, Expiry
from card_worker.contracts.internal import SweptCard, SweptHold
from card_worker.contracts.message import UnreadableItem, read_commands
from card_worker.domain.answers import Answer
from card_worker.domain.rows import CARDS_PER_CHUNK
from card_worker.files import confirm
from card_worker.handler import handle
from card_worker.secret_issuer import SecretIssuer
from card_worker.storage import outbox
from card_worker.storage.accounts import change_account
from card_worker.storage.engine import begin
from card_worker.storage.files import find_files, mark_written
from card_worker.storage.pin_attempts import store_pin_attempts
from card_worker.sweeps import lapse_orders
from tests.codes import OWNER, PIN, SEAL_TO, VAULT, WRONG_PIN, plain_issuer
from tests.orders import ACCOUNT, CODES, Orders

OTHER = "T00000002"
"""An account with cards of the same names."""
SMALL = 2
"""So many cards has a chunk here."""
LOAD = {"amount": 1_000, "currency": "NOK"}
WHY = {"reason": "because"}


class Teller:
    """Handles commands one after the other, a second apart."""

    def __init__(self, engine: Engine, issuer: SecretIssuer) -> None:
        self._engine, self._issuer = engine, issuer
        with begin(engine) as (_, now):
            self.now: datetime = now
        self._number = 0

    def ask(self, task: str, **fields: Any) -> Answer:
        """Ask for something; return the answer."""
        self._number += 1
        self.now += timedelta(seconds=1)
        asked = {"account_id": ACCOUNT, **fields}
        (command,) = read_commands(task, f"c{self._number}-{task}", asked, VAULT)
        assert not isinstance(command, UnreadableItem)
        return self.handle(command)

    def handle(self, command: Any) -> Answer:
        with begin(self._engine) as (connection, _):
            store_pin_attempts(connection, [command], self.now)
        with begin(self._engine) as (connection, _):
            (answer,) = handle(connection, [command], self.now, self._issuer)
        return answer

    def done(self, task: str, **fields: Any) -> Answer:
        """Ask for something that isn't refused."""
        answer = self.ask(task, **fields)
        assert answer.reason is None, (task, fields, answer.event)
        return answer

    def move(self, card_id: str, ref_id: str, amount: int = 100, **fields: Any) -> str:
        """Draw an amount, unless `fields` say otherwise; return the transaction's id."""
        asked = {"card_id": card_id, "ref_id": ref_id, "amount": amount, "currency": "NOK"}
        return str(self.done("transactions.create", **{**asked, **fields}).id)


def populate(engine: Engine) -> None:
    """Let everything happen once, and publish the first half of the events."""
    tell, orders = Teller(engine, plain_issuer()), Orders(engine)
    with ExitStack() as patched:
        for action in (Action.MAKE, Action.REMOVE, Action.BLOCK, Action.CLOSE, Action.CANCEL):
            patched.enter_context(patch.dict(CARDS_PER_CHUNK, {action: SMALL}))
        _lapsed(tell, engine)
        for happens in (_codes, _money, _holds, _lives, _refusals):
            happens(tell)
        _batches(orders, tell)
        _breakage(tell, engine)
    with begin(engine) as (connection, _):
        waiting = outbox.first_unpublished(connection, 1_000)
        outbox.mark_published(connection, waiting[: len(waiting) // 2])


def _lapsed(tell: Teller, engine: Engine) -> None:
    """Order cards so long ago that nobody can approve them any more."""
    waits = {"needs_approval": True, "created_by": "me"}
    long_ago = APPROVAL_WITHIN + timedelta(hours=1)
    tell.now -= long_ago
    tell.done("cards.batch_create", batch_id="lapsed", cards=[{"card_id": "D1"}], **waits)
    tell.now += long_ago
    assert lapse_orders(engine) == 1


def _codes(tell: Teller) -> None:
    """Make the first tokens, so that their values are known."""
    made: dict[str, Any] = {**LOAD, **SEAL_TO}
    for name, behaviour in (("paid", {}), ("once", {"expires_after_transaction": True})):
        tell.done("cards.create", card_id=name, card_token=behaviour, pin={}, **made)
    tell.done("cards.create", card_id="guessed", card_token={}, pin={}, **made)
    pay = {"currency": "NOK", "amount": 100, "pin": PIN}
    tell.done("transactions.create", token="TOKEN-0", ref_id="t1", **pay)
    tell.done("transactions.create", token="TOKEN-1", ref_id="t2", **pay)
    for number in range(5):
        wrong = {**pay, "pin": WRONG_PIN, "token": "TOKEN-2", "ref_id": f"wrong-{number}"}
        assert tell.ask("transactions.create", **wrong).reason == "card_not_usable"
    tell.done("cards.create", card_id="tokens", **LOAD)
    kept = tell.done("tokens.create", card_id="tokens", ref_id="kept", expires_in=3600, **SEAL_TO)
    gone = tell.done("tokens.create", card_id="tokens", ref_id="gone", expires_in=60, **SEAL_TO)
    tell.done("tokens.revoke", card_id="tokens", token_id=str(gone.id))
    assert kept.id != gone.id
    tell.done("cards.rotate_pin", card_id="tokens", pin={}, **SEAL_TO)
    tell.done("cards.rotate_pin", card_id="paid", pin={}, **SEAL_TO)


def _money(tell: Teller) -> None:
    for name in ("spent", "from", "to", "emptied"):
        tell.done("cards.create", card_id=name, metadata={"a": 1, "b": [1.5, None]}, **LOAD)
        tell.done("cards.create", account_id=OTHER, card_id=name, amount=7, currency="EUR")
    drawn = tell.move("spent", "r1", 300, metadata={"till": 3})
    tell.done("transactions.refund", transaction_id=drawn, ref_id="r2", amount=120)
    tell.move("spent", "r3", 50, type="fund")
    by = {"currency": "NOK", **WHY}
    tell.done("cards.adjust", card_id="spent", ref_id="r4", amount=25, **by)
    tell.done("cards.adjust", card_id="spent", ref_id="r5", amount=-5, **by)
    tell.done("cards.transfer", card_id="from", to_card_id="to", ref_id="r6", amount=400)
    tell.move("emptied", "r7", 1_000)


def _holds(tell: Teller) -> None:
    tell.done("cards.create", card_id="held", **LOAD)
    tell.move("held", "h1", 200, pending=True)
    part = tell.move("held", "h2", 150, pending=True)
    tell.done("transactions.capture", transaction_id=part, ref_id="h3", amount=60)
    voided = tell.move("held", "h4", 100, pending=True)
    tell.done("transactions.void", transaction_id=voided, ref_id="h5")
    tell.done("cards.create", card_id="final", funding="promotional", **LOAD)
    last = tell.move("final", "f1", 100, pending=True)
    tell.done("transactions.capture", transaction_id=last, ref_id="f2", amount=60, final=True)
    late = tell.move("held", "h6", 10, pending=True, hold_expires_in=5)
    tell.move("held", "h7", 20, pending=True, hold_expires_in=20)
    tell.now += timedelta(seconds=10)
    swept = {"account_id": ACCOUNT, "transaction_id": late, "command_id": f"{late}-swept"}
    tell.handle(SweptHold.model_validate(swept))
    tell.now += timedelta(seconds=20)
    # What is due is released by whatever comes first.
    tell.move("held", "h8", 30)


def _lives(tell: Teller) -> None:
    later = tell.now + timedelta(hours=1)
    for name in ("blocked", "unblocked", "closed", "replaced", "updated"):
        tell.done("cards.create", card_id=name, **LOAD)
    tell.done("cards.block", card_id="blocked", **WHY)
    tell.done("cards.block", card_id="unblocked", **WHY)
    tell.done("cards.unblock", card_id="unblocked", **WHY)
    tell.done("cards.close", card_id="closed", **WHY)
    drawn = tell.move("replaced", "q1", 50)
    tell.done("cards.replace", card_id="replaced", new_card_id="replacing", **WHY)
    tell.done("transactions.refund", transaction_id=drawn, ref_id="q2", amount=20)
    tell.done("cards.update", card_id="updated", name="N", metadata={"x": True})
    for name in ("kept", "revived", "renamed"):
        tell.done("cards.create", card_id=name, expires_at=later.isoformat(), **LOAD)
    tell.now = later + timedelta(minutes=1)
    for name in ("kept", "revived", "renamed"):
        swept = {"account_id": ACCOUNT, "card_id": name, "command_id": f"{name}-swept"}
        assert tell.handle(SweptCard.model_validate(swept)).reason is None
    more = (tell.now + timedelta(days=1)).isoformat()
    tell.done("cards.update", card_id="revived", expires_at=more)
    tell.done("cards.update", card_id="renamed", name="N")


def _refusals(tell: Teller) -> None:
    assert tell.ask("cards.create", card_id="spent", **LOAD).reason == "card_exists"
    assert tell.ask("cards.close", card_id="nobody", **WHY).reason == "card_not_found"
    asked = {"card_id": "spent", "ref_id": "r1", "currency": "NOK"}
    assert tell.ask("transactions.create", amount=1, **asked).reason == "idempotency_conflict"
    dry = {"card_id": "spent", "ref_id": "dry", "currency": "NOK", "dry_run": True}
    tell.done("transactions.create", amount=1, **dry)
    tell.done("cards.close", card_id="spent", dry_run=True, **WHY)
    tell.done("cards.batch_create", cards=[{"card_id": "dry"}], batch_id="dry", dry_run=True)


def _batches(orders: Orders, tell: Teller) -> None:
    listed = [{"card_id": "L1"}, {"card_id": "L2", "type": "credit_note"}]
    orders.ask("cards.batch_create", "list", batch_id="L", cards=listed, name="N", **CODES)
    for _ in range(2):  # a repeat
        orders.ask("cards.batch_create", "plain", batch_id="P", cards=[{"card_id": "P1"}])
    tell.done("cards.update", card_id="P1", customer_id="c")
    separate = {**CODES, "seal_pins_to": [OWNER.recipient]}
    orders.order(5, "B", metadata={"m": 1}, created_by="me", **separate)
    orders.order(3, "R", **CODES)
    orders.order(3, "C")
    orders.work()
    tell.now = max(tell.now, orders.batch("R").created_at + timedelta(days=1))
    for name in ("B-0001", "B-0002", "B-0004"):
        tell.done("cards.activate", card_id=name, card_token={"expires_in": 86_400 * 30}, **LOAD)
    tell.done("cards.reverse_activation", card_id="B-0002")
    tell.done("cards.activate", card_id="L1", **LOAD)
    tell.done("cards.close", card_id="B-0004", **WHY)
    orders.ask("batches.block", "block", batch_id="B", first=1, last=3, **WHY)
    orders.ask("batches.close", "shut", batch_id="B", **WHY)
    orders.work()
    orders.ask("batches.cancel", "let-go", batch_id="C", **WHY)
    orders.work()
    orders.ask("batches.block", "begun", batch_id="R", **WHY)
    orders.work(1)
    orders.ask("batches.unblock", "second", batch_id="R", **WHY)
    orders.ask("batches.cancel", "third", batch_id="R", **WHY)
    _unfinished(orders)
    _lists(orders)
    with begin(orders.engine) as (connection, now):
        for file in find_files(connection, ACCOUNT, "L"):
            mark_written(connection, file, now)
    confirm(orders.engine, ACCOUNT, "L", "them")


def _unfinished(orders: Orders) -> None:
    """Leave an order half made, one that waits, one that was let go, and one being removed."""
    orders.waiting.clear()
    orders.order(5, "H", **CODES)
    orders.work(2)
    orders.waiting.clear()
    waits = {"needs_approval": True, "created_by": "me"}
    orders.order(4, "W", **waits)
    orders.order(4, "A", **waits)
    orders.ask("batches.approve", "approve", batch_id="A", created_by="you")
    orders.work()
    orders.order(4, "G")
    orders.work(1)
    paid = {"card_id": "G-0001", "ref_id": "g1", "amount": 1, "currency": "NOK", "pin": PIN}
    assert orders.pay(**paid)["type"] == "command.rejected"
    orders.waiting.clear()
    orders.ask("batches.cancel", "gone", batch_id="G", **WHY)
    orders.work()
    orders.order(6, "X")
    orders.work(2)
    orders.waiting.clear()
    orders.ask("batches.cancel", "going", batch_id="X", **WHY)
    orders.work(1)
    orders.waiting.clear()


def _lists(orders: Orders) -> None:
    """Leave a list that waits for approval, and others in each state that follows."""
    for name in ("waits", "making", "made", "removing", "removed", "ending"):
        listed = [{"card_id": f"{name}-{number}"} for number in range(1, 6)]
        asked = {"cards": listed, "needs_approval": True, "created_by": "me"}
        codes = CODES if name == "made" else {}
        orders.ask("cards.batch_create", f"list-{name}", batch_id=name, **asked, **codes)
    orders.ask("batches.cancel", "cancel-removed", batch_id="removed", **WHY)
    for name, chunks_done in (("making", 1), ("made", None), ("removing", 2), ("ending", None)):
        orders.ask("batches.approve", f"approve-{name}", batch_id=name, created_by="you")
        orders.work(chunks_done)
        orders.waiting.clear()
    for name in ("removing", "ending"):
        orders.ask("batches.cancel", f"cancel-{name}", batch_id=name, **WHY)
        orders.work(1)
        orders.waiting.clear()


def _breakage(tell: Teller, engine: Engine) -> None:
    change_account(engine, ACCOUNT, lambda account: account._replace(expiry=Expiry.BREAKAGE))
    later = tell.now + timedelta(hours=1)
    for name in ("broken", "unlocked"):
        tell.done("cards.create", card_id=name, expires_at=later.isoformat(), **LOAD)
    hold = tell.move("unlocked", "b1", 40, pending=True)
    tell.now = later
    for name in ("broken", "unlocked"):
        tell.done("cards.expire", card_id=name)
    tell.done("transactions.void", transaction_id=hold, ref_id="b2")
