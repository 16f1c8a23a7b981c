"""The page `contract.md`: every command, query and setting, from the models themselves."""

import json
from collections.abc import Iterable
from typing import Any

from card_worker.contracts.commands import APPLY, COMMANDS, COMMANDS_PER_MESSAGE_MAX, QUEUES
from card_worker.contracts.dead_letters import DeadLetterReason
from card_worker.contracts.envelope import HEADERS_BYTES_MAX, LEVELS_MAX, MESSAGE_BYTES_MAX
from card_worker.contracts.message import BATCH_COST, COMMAND_BYTES_MAX, EXTRA_COST_MAX
from card_worker.contracts.metadata import (
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    RESERVED_EXCEPT,
    RESERVED_PREFIX,
)
from card_worker.contracts.queries import QUERIES, QUERY_QUEUES
from card_worker.contracts.text import ID_SCHEMA, TEXT_SCHEMA
from card_worker.reference.examples import examples
from card_worker.reference.schemas import command_schema, summary

_QUEUES = QUEUES | QUERY_QUEUES
_ANSWERED = (
    *("batch_id", "state", "requested", "created", "transaction", "hold", "token", "sealed"),
    *("other_card_id", "reason_text", "recall", "cards"),
)
_OF_CARD = ("card_id", "status", "amount_balance", "amount_reserved", "amount_available")
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
            " each command does to a card in each state is in [states.md](states.md), events,"
            " statuses and reasons are in [events.md](events.md).",
            "",
            "## Commands",
            "",
            "Each command is a Celery task: protocol 2, JSON, keyword arguments only. Unknown"
            " fields are refused. Each message must name the queue that is given with its command."
            " Each command has one answer, an [event](events.md) with the attribute `answer`.",
            "",
            "- The *idempotency key* of a command is its `ref_id`, together with the card, token or"
            " transaction that it names; if it has no `ref_id`, or a field with invalid content,"
            " its `command_id`. A dry run has a key of its own, and so has the `ref_id` of a token."
            " When a key is sent again with the same fields, the command is not done again, and its"
            " first answer is published again, even if that was a refusal; once, if it had not been"
            " published yet. Keys are kept for ever. To try again after a refusal, use a new key."
            " If the `ref_id` was sent with another `command_id` before, the answer is"
            " `command.repeated`, which holds the first one. If the content of the first answer is"
            " no longer stored ([Keep less](../how-to/keep-less.md)), the answer is"
            " `command.repeated` as well, with its id and type only. When a key is sent again with"
            " other fields, the command is refused, `idempotency_conflict`; only `command_id`,"
            " `not_after` and `pin` may differ.",
            "- Celery's `expires` is a deadline like `not_after`; the earlier of both counts."
            " Bodies may be compressed with zlib, gzip, bzip2 or lzma. The headers `traceparent`"
            " and `tracestate` come back on the events. `retries`, `shadow`, groups and stamps are"
            " ignored. `eta` and `countdown`, time limits, callbacks, chains, chords"
            " and positional arguments are not supported: such a command is refused, `invalid`,"
            " with a problem for each.",
            "- A *signed* command or query has two keyword arguments: `signed`, its fields as JSON"
            " text with a `command_id`, and `signature`. How both are made, and what happens to"
            " messages that are not signed or not allowed, is in"
            " [Sign commands](../how-to/sign-commands.md); test vectors are in"
            " [signatures.json](signatures.json).",
            "- An *id* has visible characters only. The space (U+0020) is the only space, and not"
            " allowed at the beginning or the end. Control, formatting and unassigned characters"
            " are not allowed. Where an id may be written into a CSV file, it must not begin with"
            " `=`, `+`, `-` or `@`, or have one of these after a semicolon: a spreadsheet reads"
            " that as a formula.",
            "- A *text* is one line for people, without control characters (tabs, line feeds), line"
            " separators and bidirectional formatting characters.",
            "- A *time* is RFC 3339 text with an offset, such as `2026-11-22T10:00:00+01:00` or"
            " `…Z`. It is stored in UTC, cut to milliseconds.",
            "- `metadata` is a JSON object of at most"
            f" {METADATA_BYTES_MAX // 1024} KiB in UTF-8 and {METADATA_DEPTH_MAX} levels, without"
            f" NUL. Keys beginning with `{RESERVED_PREFIX}` are reserved, except"
            f" `{RESERVED_EXCEPT}`.",
            "- *Amounts* are whole numbers of minor units: `50000` is 500.00. All currencies have"
            ' two decimals. `5.0`, `"5"` and `true` are not amounts.',
            "- `null` counts as absent, except in `cards.update`.",
            "",
            "All commands and queries have these fields:",
            "",
            *fields_table(common, [name for name in common["properties"] if name in _COMMON]),
            "",
            *tasks,
            "### `commands.apply`",
            "",
            f"A list of commands, handled in order, each with its own answer. Queue:"
            f" `{QUEUES[APPLY]}`. Its one field, `commands`, has 1 to {COMMANDS_PER_MESSAGE_MAX:,}"
            " objects. Each has the fields of a command, its `command_id` among them, and the name"
            f" of the command as `command`. Together they may list {EXTRA_COST_MAX:,} cards; any"
            f" other command about a batch counts as {BATCH_COST} cards. What is beyond is"
            " refused, `invalid`.",
            "",
            "```python",
            'celery.send_task("commands.apply", queue="cards.bulk", kwargs={"commands": [',
            '    {"command": "cards.block", "account_id": "T00000001", "command_id": "cmd-41",',
            '     "card_id": "card-01", "reason": "lost"},',
            '    {"command": "cards.block", "account_id": "T00000001", "command_id": "cmd-42",',
            '     "card_id": "card-02", "reason": "lost"},',
            "]})",
            "```",
            "",
            "### Limits",
            "",
            f"A message has at most {MESSAGE_BYTES_MAX // 1024:,} KiB and {LEVELS_MAX} levels, and"
            f" its headers {HEADERS_BYTES_MAX // 1024} KiB, a command {COMMAND_BYTES_MAX // 1024}"
            " KiB without the cards that it lists. What one message writes at most is in"
            " [limits](limits.md).",
            "",
            "## Queries",
            "",
            "A query is a Celery task, too. Its answer is the result of the task, not an event. So"
            " your Celery client needs a result backend: the broker, where results are kept for an"
            " hour, or the Redis of `RESULT_BACKEND_URL`, if that is set, where they are kept for a"
            " day. Don't send a query with `ignore_result=True`.",
            "",
            "```python",
            "celery = Celery(broker=url, backend=url)",
            'query = celery.send_task("cards.get", queue="cards", kwargs={',
            '    "account_id": "T00000001",',
            '    "card_id": "card-01",',
            "})",
            'print(query.get(timeout=10)["card"]["amount_available"])',
            "```",
            "",
            "The result is an object with `card`; with `cards` or `transactions`, and"
            " `next_cursor`; or with `batch`. These are the same [objects](events.md#objects) as in"
            " events. The result of a query that is refused has `reason`, `message` and perhaps"
            " `problems` instead. Commands have results only if `RESULT_BACKEND_URL` is set.",
            "",
            *queries,
            "## Objects in fields",
            "",
            *_parts(),
            "## Reasons for a dead letter",
            "",
            "A message whose sender cannot be answered is kept as a dead letter."
            " `card-worker dead-letters` shows the reason and a detail.",
            "",
            *table(
                ("reason", "meaning"),
                [(f"`{reason}`", reason.text) for reason in DeadLetterReason],
            ),
            "",
            "## Settings",
            "",
            *table(("environment variable", "default", "meaning"), settings),
            "",
        ]
    )


def _command(task: str) -> list[str]:
    schema = command_schema(task)
    own = [name for name in schema["properties"] if name not in _COMMON]
    heading = [f"### `{task}`", "", f"{summary(task)} Queue: `{_QUEUES[task]}`.", ""]
    return [*heading, *fields_table(schema, own), "", *_example(task)]


def _example(task: str) -> list[str]:
    """Return a message and what its answer has besides the fields of all answers."""
    if task not in examples():
        return []
    fields, answer = examples()[task]
    data = answer["data"]
    answered = {name: data[name] for name in _ANSWERED if name in data}
    if card := data.get("card"):
        answered["card"] = {name: card[name] for name in _OF_CARD}
    return [
        "```python",
        f"celery.send_task({json.dumps(task)}, queue={json.dumps(_QUEUES[task])}, kwargs={{",
        *[f"    {json.dumps(name)}: {_python(value)}," for name, value in fields.items()],
        "})",
        "```",
        "",
        f"Answer: `{answer['type']}`, of whose `data` this is a part:",
        "",
        "```json",
        json.dumps(answered, indent=2, ensure_ascii=False),
        "```",
        "",
    ]


def _python(value: object) -> str:
    return repr(value).replace("'", '"')


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
        lines += [f"### {name}", "", described, "", *fields_table(whole, part["properties"]), ""]
    return lines


def fields_table(
    schema: dict[str, Any], names: Iterable[str], *, with_null: bool = False
) -> list[str]:
    """Return a table of fields; `with_null` says of each whether it can be null."""
    rows = []
    for name in names:
        field = schema["properties"][name]
        is_required = "required" if name in schema["required"] else _default(field)
        type = _type(field, schema)
        if with_null and {"type": "null"} in field.get("anyOf", ()):
            type += " or null"
        rows.append((f"`{name}`", type, is_required, field.get("description", "")))
    return table(("field", "type", "default", "meaning"), rows)


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
        case {"type": "integer"} if "maximum" not in field:
            return "integer"
        case {"type": "integer"}:
            least = field.get("minimum", field.get("exclusiveMinimum"))
            sign = "≥" if "minimum" in field else ">"
            return f"integer {sign} {least}, ≤ {field['maximum']}"
        case {"type": "string"}:
            return _text(field)
        case {"type": "array", "items": items}:
            bounds = f", {field['minItems']}..{field['maxItems']}" if "maxItems" in field else ""
            return f"list of ({_type(items, schema)}){bounds}"
        case {"type": str(kind)}:
            return {"boolean": "true or false", "null": "not offered"}.get(kind, kind)
    return "any"


def _text(field: dict[str, Any]) -> str:
    pattern, most = field.get("pattern"), field.get("maxLength")
    if pattern not in (None, ID_SCHEMA["pattern"], TEXT_SCHEMA["pattern"]):
        return f"text `{pattern}`"
    kind = "id" if pattern == ID_SCHEMA["pattern"] else "text"
    return "string" if most is None else f"{kind} {field.get('minLength', 0)}..{most}"


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [
        f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in row)} |"
        for row in rows
    ]
