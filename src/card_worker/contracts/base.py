"""The fields that every command and every query has, and helpers for their JSON Schemas."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic.json_schema import SkipJsonSchema

from card_worker.contracts import keys
from card_worker.contracts.fields import AccountId, CommandId, Name, Text255, Time


class Request(BaseModel):
    """The fields that every command and every query has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account_id: AccountId = Field(
        description="The account (tenant): `P` for production or `T` for test, and eight digits."
    )
    command_id: CommandId = Field(
        description="Your id of the command, unique in the account; its answer has it, too. It is"
        " the idempotency key of commands without `ref_id`. Default: the id of the Celery task."
    )
    not_after: Time | None = Field(
        None, description="Deadline. After this time the command is refused as `stale_command`."
    )
    created_by: Text255 | None = Field(
        None, description="The person or system that sends the command."
    )
    originated_by: Name | None = Field(
        None, description="Where the command comes from: a till, a shop, a job."
    )
    dry_run: StrictBool = Field(
        False, description="Apply all rules and answer, but change nothing."
    )
    producer: SkipJsonSchema[str | None] = None
    """The producer that has signed the request. No message may have this field."""

    @property
    def key(self) -> str:
        """Return the idempotency key, unique in the account."""
        return self._unless_dry(keys.by_id(self.command_id))

    def _unless_dry(self, key: str) -> str:
        # A dry run must not use up the key of the real command.
        return keys.dry(key) if self.dry_run else key


class InternalCommand(Request):
    """A command that a worker makes itself. It is never read from a message."""

    @property
    def key(self) -> str:
        return keys.internal(self.command_id)


def given(name: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a JSON Schema of objects whose field `name` is not null and matches `schema`."""
    return {"required": [name], "properties": {name: schema or {"not": {"type": "null"}}}}


def alternatives(*ways: Collection[str]) -> dict[str, Any]:
    """Return a JSON Schema of objects with all fields of exactly one way, and none of the others.

    A field that is null counts as absent.
    """
    names = [name for way in ways for name in way]
    present, absent = {"not": {"type": "null"}}, {"type": "null"}
    return {
        "oneOf": [
            {
                "required": list(way),
                "properties": {name: present if name in way else absent for name in names},
            }
            for way in ways
        ]
    }
