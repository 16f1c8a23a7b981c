"""The four tables of an activation, as SQLAlchemy's ORM maps them."""

from datetime import datetime
from typing import ClassVar
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
    }


class Card(Base):
    __tablename__ = "cards"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    card_id: Mapped[str]
    type: Mapped[str]
    state: Mapped[str]
    blocked: Mapped[bool]
    currency: Mapped[str | None]
    amount: Mapped[int]
    customer_id: Mapped[str | None]
    name: Mapped[str | None]
    originated_by: Mapped[str | None]
    notes: Mapped[str | None] = mapped_column("metadata")  # JSON as text
    active_from: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    batch_id: Mapped[str | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str | None]
    version: Mapped[int]
    amount_funds: Mapped[int]
    amount_drawdown: Mapped[int]
    amount_balance: Mapped[int]
    amount_pending: Mapped[int]
    amount_reserved: Mapped[int]


class Transaction(Base):
    __tablename__ = "transactions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    account_id: Mapped[str]
    card: Mapped[UUID] = mapped_column(ForeignKey("cards.id"))
    type: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
    debit: Mapped[str]
    credit: Mapped[str]
    created_at: Mapped[datetime]
    balance_before: Mapped[int]
    balance_after: Mapped[int]
    version: Mapped[int]


class Key(Base):
    """A command that has been handled; its answer stands in the outbox."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    event_id: Mapped[UUID]
    created_at: Mapped[datetime]


class Outbox(Base):
    __tablename__ = "outbox"

    position: Mapped[int] = mapped_column(Identity(), primary_key=True)
    id: Mapped[UUID]
    account_id: Mapped[str]
    type: Mapped[str]
    subject: Mapped[str]
    partition_key: Mapped[str]
    event: Mapped[str]
    created_at: Mapped[datetime]
