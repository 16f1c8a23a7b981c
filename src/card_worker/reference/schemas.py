"""JSON Schemas of every command and every event, from the models that read and write them."""

from typing import Any

from pydantic import TypeAdapter

from card_worker.contracts.commands import COMMANDS, ProducerCommand
from card_worker.contracts.enums import EventType
from card_worker.contracts.events import BatchData, CardData, Envelope, RejectionData, RepeatData
from card_worker.contracts.queries import QUERIES, Query
from card_worker.contracts.views import BatchView

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DATA: dict[EventType, type] = dict.fromkeys(EventType, CardData) | {
    **dict.fromkeys((type for type in EventType if type.value.startswith("batch.")), BatchData),
    EventType.COMMAND_REJECTED: RejectionData,
    EventType.COMMAND_REPEATED: RepeatData,
}

_UNSAID = (
    "Beyond this schema: a command has at most 64 KiB unless it lists cards, a whole number neither"
    " a point nor an exponent, a day is one that exists, an id no character that can't be seen,"
    " metadata at most 16 KiB in UTF-8, 8 levels and no NUL, a recipient its checksum."
)
"""What holds for all commands, and no JSON Schema can say."""


def summary(task: str) -> str:
    """Return what a command, or a query, does, in a line."""
    return " ".join((_kind(task).__doc__ or "").split())


def _kind(task: str) -> type[ProducerCommand] | type[Query]:
    return COMMANDS[task] if task in COMMANDS else QUERIES[task]


def command_schema(task: str) -> Schema:
    """Return the schema of a command's, or a query's, fields: the keyword arguments of its task."""
    schema = _kind(task).model_json_schema()
    # Which command it is, the task says.
    del schema["properties"]["command"]
    for fields in schema["properties"].values():
        fields.pop("title", None)
    required = [name for name in schema["required"] if name != "command_id"]
    described = f"{schema['description']}\n\n{_UNSAID}"
    told = {"title": task, "description": described, "required": required}
    return {"$schema": DIALECT, **schema, **told}


def event_schema(type: EventType) -> Schema:
    """Return the schema of an event as it stands on the stream."""
    schema = TypeAdapter(Envelope).json_schema(mode="serialization")
    data = _DATA[type]
    properties = schema["properties"] | {
        "type": {"const": type.value, "description": type.text},
        "data": {"$ref": f"#/$defs/{data.__name__}", "description": (data.__doc__ or "")},
    }
    schema |= {"title": type.value, "description": type.text, "properties": properties}
    schema["$defs"] = _used(schema)
    return {"$schema": DIALECT, **schema}


def batch_view_schema() -> Schema:
    """Return the schema of a batch as a query shows it, itself among its definitions."""
    schema = TypeAdapter(list[BatchView]).json_schema(mode="serialization")
    return {"$schema": DIALECT, **schema}


def _used(schema: Schema) -> Schema:
    """Return the definitions that a schema refers to, directly or by another one."""
    definitions, names = schema["$defs"], set[str]()
    rest = _references({name: part for name, part in schema.items() if name != "$defs"})
    while rest:
        name = rest.pop()
        if name not in names:
            names.add(name)
            rest |= _references(definitions[name])
    return {name: definitions[name] for name in sorted(names)}


def _references(part: Any) -> set[str]:
    match part:
        case {"$ref": str(reference)}:
            return {reference.rpartition("/")[2]}
        case dict():
            return {name for one in part.values() for name in _references(one)}
        case list():
            return {name for one in part for name in _references(one)}
    return set()
