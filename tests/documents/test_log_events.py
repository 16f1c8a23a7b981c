"""The page about log events lists those that the source logs, with their levels and fields."""

import ast
import re
from collections.abc import Iterator

from tests.documents.reading import ROOT

SOURCE = ROOT / "src" / "card_worker"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
RETRY = "warning, error"
OF_AN_ERROR = {"error", "reason", "sqlstate"}
"""The fields that `described` returns."""
VARIABLE = {"keep_trying", "log_next", "_try_until_available"}
"""The functions that log `…, retrying`, some of them for their callers."""
Logged = tuple[str, str, frozenset[str]]
"""Event, level and fields."""


def test_all_log_events_are_on_the_page() -> None:
    assert set(_on_the_page()) == set(_in_the_source())


def _on_the_page() -> Iterator[Logged]:
    page = (ROOT / "docs" / "reference" / "log-events.md").read_text()
    for event, level, fields in re.findall(r"^\| `(.+?)` \| ([a-z, ]+) \| (.*?) \| ", page, re.M):
        yield event, level, frozenset(re.findall(r"`(\w+)`", fields))


def _in_the_source() -> Iterator[Logged]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield from _logged(node)


def _logged(call: ast.Call) -> Iterator[Logged]:
    constants = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    texts = [value for value in constants if isinstance(value, str)]
    match call.func:
        case ast.Attribute(value=ast.Name("log"), attr=level) if level in LEVELS:
            (event,) = texts
            fields = set(OF_AN_ERROR if any(each.arg is None for each in call.keywords) else ())
            fields |= {each.arg for each in call.keywords if each.arg is not None}
            yield re.sub(r"%[.\d]*[a-z]", "…", event), level, frozenset(fields)
        case ast.Name(name) | ast.Attribute(attr=name) if name in VARIABLE:
            for event in texts:
                yield f"{event}, retrying", RETRY, frozenset({"pause_s", *OF_AN_ERROR})
