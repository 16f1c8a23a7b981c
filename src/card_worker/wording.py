"""Sentences about wrong input: pydantic's errors in terms of JSON, and suggestions for names."""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

NAME_CHARS_MAX = 64
"""Longest part of a name that is compared with the known names."""

_VALUE = re.compile(r"'([^']*)'")
_CUSTOM = "Value error, "


def _one_of(context: Mapping[str, Any]) -> str:
    values = _VALUE.findall(context["expected"])
    return f"must be {'one of ' if len(values) > 1 else ''}{', '.join(values)}"


def _at_least(unit: str) -> Callable[[Mapping[str, Any]], str]:
    def text(context: Mapping[str, Any]) -> str:
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} {unit}s"

    return text


def _at_most(unit: str) -> Callable[[Mapping[str, Any]], str]:
    def text(context: Mapping[str, Any]) -> str:
        most = context["max_length"]
        return f"must have at most {most} {unit}{'' if most == 1 else 's'}"

    return text


_INTEGER, _NUMBER = "must be a whole number", "must be a number"
_TEXTS: dict[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be an object"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _INTEGER),
    "int_parsing_size": "must be a smaller number",
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("enum", "literal_error"), _one_of),
    "string_too_short": _at_least("character"),
    "string_too_long": _at_most("character"),
    "too_short": _at_least("item"),
    "too_long": _at_most("item"),
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}


def in_words(problem: ErrorDetails) -> str:
    """Return what is wrong with a field, for its sender: one sentence without a subject."""
    text = _TEXTS.get(problem["type"])
    context = problem.get("ctx", {})
    if text is None:
        return problem["msg"].removeprefix(_CUSTOM)
    return text.format_map(context) if isinstance(text, str) else text(context)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the known name that is closest to a mistyped one, as a question, else all known."""
    known = list(known)
    return did_you_mean(name, known) or f"; there are {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` with the known name that is closest, or nothing."""
    close = get_close_matches(name[:NAME_CHARS_MAX], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
