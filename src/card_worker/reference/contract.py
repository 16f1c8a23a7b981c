"""The page `contract.md`: every command, event, reason and setting, from the models themselves."""

from collections.abc import Iterable
from typing import Any

from card_worker.contracts.commands import APPLY, COMMANDS, COMMANDS_PER_MESSAGE_MAX, QUEUES
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.enums import EventType, Reason
from card_worker.contracts.fields import ID_SCHEMA, TEXT_SCHEMA
from card_worker.contracts.message import (
    BATCH_COST,
    COMMAND_BYTES_MAX,
    EXTRA_COST_MAX,
    HEADERS_BYTES_MAX,
    MESSAGE_BYTES_MAX,
)
from card_worker.contracts.queries import QUERIES, QUERY_QUEUES
from card_worker.reference.schemas import command_schema, summary

_QUEUES = QUEUES | QUERY_QUEUES
_COMMON = ("account_id", "command_id", "not_after", "created_by", "originated_by", "dry_run")


def contract_page(settings: Iterable[tuple[str, str, str]]) -> str:
    """Return the page; `settings` are their names, defaults and meanings."""
    tasks = [line for task in COMMANDS for line in _command(task)]
    queries = [line for task in QUERIES for line in _command(task)]
    common = command_schema("cards.expire")
    return "\n".join(
        [
            "# Contract",
            "",
            "Written by `card-worker contract` from the models. JSON Schemas are in"
            " [schemas](schemas), an AsyncAPI 3 document is [asyncapi.json](asyncapi.json), what"
            " each command does to a card in each state is in [states.md](states.md).",
            "",
            "## Commands",
            "",
            "Each is a Celery task, protocol 2, JSON, with keyword arguments only. Unknown fields"
            " are refused.",
            "",
            "- An *id* names something. It has visible characters only: no control or formatting"
            " characters, no other invisible ones, and none that Unicode hasn't assigned. The only"
            " space is U+0020, and it is neither first nor last. Where it may come to stand in a"
            " CSV file, it has none of `=`, `+`, `-` and `@` in front or behind a semicolon, since"
            " a spreadsheet takes that for a formula.",
            "- A *text* is one line for people. It has no control characters (tab and line feed"
            " among them), no line separators and no bidirectional formatting characters.",
            "",
            "All take these:",
            "",
            *_fields(common, [name for name in common["properties"] if name in _COMMON]),
            "",
            *tasks,
            "### `commands.apply`",
            "",
            f"A list of commands, handled in order, each with its own answer. Queue:"
            f" `{QUEUES[APPLY]}`. Its one field, `commands`, has 1 to {COMMANDS_PER_MESSAGE_MAX:,}"
            " objects: the fields of a command, its `command_id` among them, and its name as"
            f" `command`. A list has at most {EXTRA_COST_MAX:,} listed cards; any other command"
            f" about a batch counts as {BATCH_COST} of them. What is beyond is refused, `invalid`.",
            "",
            "### Limits",
            "",
            f"A message has at most {MESSAGE_BYTES_MAX // 1024:,} KiB and its headers"
            f" {HEADERS_BYTES_MAX // 1024} KiB, a command {COMMAND_BYTES_MAX // 1024} KiB without"
            " the cards that it lists. What one message writes at most is in"
            " [limits](limits.md).",
            "",
            "## Queries",
            "",
            "Celery tasks as well, but what they show comes as the task's result alone: to"
            " producers that publish with `ignore_result=False`, where `RESULT_BACKEND_URL` is set."
            " `{reason, message}` says why there is nothing to show.",
            "",
            *queries,
            "## Parts",
            "",
            "What some of the fields are made of.",
            "",
            *_parts(),
            "## Events",
            "",
            *_table(("type", "tells"), [(f"`{type}`", type.text) for type in EventType]),
            "",
            "## Reasons for a refusal",
            "",
            *_table(("reason", "says"), [(f"`{reason}`", reason.text) for reason in Reason]),
            "",
            "## Reasons for a dead letter",
            "",
            "A message whose sender cannot be answered is kept as a dead letter."
            " `card-worker dead-letters` shows the reason and a detail.",
            "",
            *_table(
                ("reason", "meaning"),
                [(f"`{reason}`", reason.text) for reason in DeadLetterReason],
            ),
            "",
            "## Settings",
            "",
            *_table(("environment variable", "default", "meaning"), settings),
            "",
        ]
    )


def _command(task: str) -> list[str]:
    schema = command_schema(task)
    own = [name for name in schema["properties"] if name not in _COMMON]
    return [
        f"### `{task}`",
        "",
        f"{summary(task)} Queue: `{_QUEUES[task]}`.",
        "",
        *_fields(schema, own),
        "",
    ]


def _parts() -> list[str]:
    schemas = map(command_schema, [*COMMANDS, *QUERIES])
    parts = {
        name: (part, schema)
        for schema in schemas
        for name, part in schema.get("$defs", {}).items()
        if part.get("type") == "object"
    }
    lines = []
    for name, (part, schema) in sorted(parts.items()):
        whole = {**part, "$defs": schema["$defs"], "required": part.get("required", ())}
        described = " ".join(part["description"].split())
        lines += [f"### {name}", "", described, "", *_fields(whole, part["properties"]), ""]
    return lines


def _fields(schema: dict[str, Any], names: Iterable[str]) -> list[str]:
    rows = []
    for name in names:
        field = schema["properties"][name]
        is_required = "required" if name in schema["required"] else _default(field)
        rows.append((f"`{name}`", _type(field, schema), is_required, field.get("description", "")))
    return _table(("field", "type", "default", "meaning"), rows)


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return (
        "none"
        if default is None
        else f"`{default}`".replace("True", "true").replace("False", "false")
    )


def _type(field: dict[str, Any], schema: dict[str, Any]) -> str:
    match field:
        case {"anyOf": [*kinds]}:
            return (
                " or ".join(
                    dict.fromkeys(_type(kind, schema) for kind in kinds if kind != {"type": "null"})
                )
                or "not offered"
            )
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            if schema["$defs"][name].get("type") == "object":
                return f"[{name}](#{name.lower()})"
            return _type(schema["$defs"][name], schema)
        case {"enum": [*words]}:
            return ", ".join(f"`{word}`" for word in words)
        case {"const": word}:
            return f"`{word}`"
        case {"format": "date-time"}:
            return "time"
        case {"format": "uuid"}:
            return "UUID"
        case {"type": "integer"}:
            least = field.get("minimum", field.get("exclusiveMinimum"))
            sign = "≥" if "minimum" in field else ">"
            return f"integer {sign} {least}, ≤ {field['maximum']}"
        case {"type": "string"}:
            return _text(field)
        case {"type": "array", "items": items}:
            return f"list of ({_type(items, schema)}), {field['minItems']}..{field['maxItems']}"
        case {"type": str(kind)}:
            return {"boolean": "true or false", "null": "not offered"}.get(kind, kind)
    return "any"


def _text(field: dict[str, Any]) -> str:
    pattern, most = field.get("pattern"), field.get("maxLength")
    if pattern not in (None, ID_SCHEMA["pattern"], TEXT_SCHEMA["pattern"]):
        return f"text `{pattern}`"
    kind = "id" if pattern == ID_SCHEMA["pattern"] else "text"
    return "string" if most is None else f"{kind} {field.get('minLength', 0)}..{most}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
    ]
