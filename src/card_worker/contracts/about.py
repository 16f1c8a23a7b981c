"""The fields that every command takes, and every query."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from card_worker.contracts import keys
from card_worker.contracts.fields import AccountId, CommandId, Name, Text255, Time


class AboutAccount(BaseModel):
    """The fields that every command takes, and every query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account_id: AccountId = Field(description="The tenant; nothing crosses accounts")
    command_id: CommandId = Field(
        description="The idempotency key; absent: the id of the Celery task"
    )
    not_after: Time | None = Field(None, description="After it the command is refused as stale")
    created_by: Text255 | None = Field(None, description="Who asks")
    originated_by: Name | None = Field(None, description="Where it comes from: till, shop, job")
    dry_run: StrictBool = Field(
        False, description="Same rules, same answer; nothing but the answer is stored"
    )

    @property
    def key(self) -> str:
        """Return the idempotency key, unique within the account."""
        return self._unless_dry(keys.by_id(self.command_id))

    def _unless_dry(self, key: str) -> str:
        # To ask what would happen must not use up the real one.
        return keys.dry(key) if self.dry_run else key


def given(name: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a JSON Schema of objects with a field that is not null, and as `schema` says."""
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


class OwnCommand(AboutAccount):
    """A command that a worker makes itself: it is read from no message."""

    @property
    def key(self) -> str:
        return keys.own(self.command_id)
