"""An AsyncAPI 3 document: the queues of commands and the stream of events."""

from typing import Any

from card_worker.contracts.commands import COMMANDS, QUEUES
from card_worker.contracts.enums import EventType
from card_worker.contracts.queries import QUERY_QUEUES
from card_worker.reference.schemas import command_schema, event_schema, summary

STREAM = "card-events"


def asyncapi(version: str) -> dict[str, Any]:
    """Return the document, for this version of the package."""
    tasks = {task: QUEUES[task] for task in COMMANDS} | QUERY_QUEUES
    queues = {queue: [task for task in tasks if tasks[task] == queue] for queue in tasks.values()}
    schemas = dict[str, Any]()
    messages = {task: _command(task, schemas) for task in tasks}
    messages |= {type.value: _event(type, schemas) for type in EventType}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "card_worker",
            "version": version,
            "description": "Commands are Celery tasks, protocol 2, JSON; answers are CloudEvents.",
        },
        "servers": {
            "broker": _server("BROKER_URL", "The Redis with the queues of commands."),
            "events": _server("EVENTS_URL", "The Redis with the stream. Default: the broker."),
        },
        "channels": {
            queue: {
                "address": queue,
                "description": "A queue of Celery tasks.",
                "servers": [{"$ref": "#/servers/broker"}],
                "messages": {task: {"$ref": f"#/components/messages/{task}"} for task in its},
            }
            for queue, its in queues.items()
        }
        | {
            STREAM: {
                "address": STREAM,
                "description": "A Redis Stream: an entry for each event, with JSON in `event`.",
                "servers": [{"$ref": "#/servers/events"}],
                "messages": {
                    type.value: {"$ref": f"#/components/messages/{type.value}"}
                    for type in EventType
                },
            }
        },
        "operations": {
            f"receive {queue}": {"action": "receive", "channel": {"$ref": f"#/channels/{queue}"}}
            for queue in queues
        }
        | {"send events": {"action": "send", "channel": {"$ref": f"#/channels/{STREAM}"}}},
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def _server(setting: str, description: str) -> dict[str, Any]:
    text = f"{description} The address is the setting CARD_WORKER_{setting}."
    return {"host": "localhost:6379", "protocol": "redis", "description": text}


def _command(task: str, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = command_schema(task)
    return {
        "name": task,
        "title": task,
        "summary": summary(task),
        "contentType": "application/json",
        "payload": _apart(schema, schemas),
    }


def _event(type: EventType, schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": type.value,
        "title": type.value,
        "summary": type.text,
        "contentType": "application/cloudevents+json",
        "payload": _apart(event_schema(type), schemas),
    }


def _apart(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without its definitions; those go to the document's own, `schemas`."""
    for name, definition in schema.pop("$defs", {}).items():
        moved = _pointing_there(definition)
        # One name is one thing, in commands and in events.
        assert schemas.setdefault(name, moved) == moved, name
    del schema["$schema"]
    pointing: dict[str, Any] = _pointing_there(schema)
    return pointing


def _pointing_there(part: Any) -> Any:
    match part:
        case {"$ref": str(reference)}:
            return {"$ref": reference.replace("#/$defs/", "#/components/schemas/")}
        case dict():
            return {name: _pointing_there(one) for name, one in part.items()}
        case list():
            return [_pointing_there(one) for one in part]
    return part
