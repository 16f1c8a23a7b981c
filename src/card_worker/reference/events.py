"""The page `events.md`: the envelope, `data` of each event, its objects, and all values."""

import json
from typing import Any

from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.enums import EventType, Reason, TextEnum
from card_worker.reference.contract import fields_table, table
from card_worker.reference.examples import examples
from card_worker.reference.schemas import batch_view_schema, event_schema

_SAMPLES = (
    EventType.HOLD_PLACED,
    EventType.BATCH_RECALLED,
    EventType.COMMAND_REJECTED,
    EventType.COMMAND_REPEATED,
)
"""Events whose schemas have all objects together."""
_OWN_TABLES = (EventType, Reason, DeadLetterReason)


def events_page() -> str:
    """Return the page."""
    envelope, objects = event_schema(EventType.HOLD_PLACED), dict[str, Any]()
    for schema in (*map(event_schema, _SAMPLES), batch_view_schema()):
        objects |= schema["$defs"]
    depending = {
        "type": {"type": "string", "description": "One of the types below."},
        "data": {
            "type": "object",
            "description": "The content; see CardData, BatchData, RejectionData and RepeatData.",
        },
    }
    whole = {**envelope, "$defs": objects, "properties": envelope["properties"] | depending}
    example = examples()["cards.activate"].answer
    values = [kind for kind in TextEnum.__subclasses__() if kind not in _OWN_TABLES]
    return "\n".join(
        [
            "# Events",
            "",
            "Written by `card-worker contract` from the models. Each command has one answer: the"
            " event with its `command_id` as `correlationid` and `answer` true. Other events that"
            " it leads to have the same `correlationid`, but no `answer`; a dry run has none."
            " Each card of a recall has an event with a `correlationid` of its own. Events are"
            " published at least once, in order for each card, as entries of a Redis Stream whose"
            " field `event` is this JSON. Amounts are whole numbers of minor units (øre, cents)."
            " Times are RFC 3339 in UTC with milliseconds.",
            "",
            "## Envelope",
            "",
            *fields_table(whole, whole["properties"]),
            "",
            "For example, the answer to `cards.activate`:",
            "",
            "```json",
            json.dumps(example, indent=2, ensure_ascii=False),
            "```",
            "",
            "## Types",
            "",
            *table(("type", "meaning"), [(f"`{type}`", type.text) for type in EventType]),
            "",
            "## Objects",
            "",
            "A field with the default `none` may be absent. All others are always there; those"
            " whose type ends with `or null` can be null.",
            "",
            *[line for name in sorted(objects) for line in _object(name, objects)],
            "## Values",
            "",
            *[line for kind in values for line in _values(kind)],
            "## Reasons for a refusal",
            "",
            "If several reasons apply, the first of them is given. An idempotency key that was used"
            " for another command is refused before anything else is checked.",
            "",
            *table(("reason", "message"), [(f"`{reason}`", reason.text) for reason in Reason]),
            "",
        ]
    )


def _object(name: str, objects: dict[str, Any]) -> list[str]:
    schema = objects[name]
    if schema.get("type") != "object":
        return []
    whole = {"required": (), **schema, "$defs": objects}
    text = " ".join(schema["description"].split())
    rows = fields_table(whole, schema["properties"], with_null=True)
    return [f"### {name}", "", text, "", *rows, ""]


def _values(kind: type[TextEnum]) -> list[str]:
    rows = [(f"`{member}`", member.text) for member in kind]
    return [
        f"### {kind.__name__}",
        "",
        kind.__doc__ or "",
        "",
        *table(("value", "meaning"), rows),
        "",
    ]
