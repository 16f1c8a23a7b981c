"""The trace context of a message: valid W3C Trace Context is read, anything else is ignored."""

from typing import Any

import pytest

from card_worker.contracts.traces import Trace, read_trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        7,
        [PARENT],
        PARENT.upper(),
        f"{PARENT}-more",
        f"{PARENT}\n",
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        PARENT.replace("4", "٤"),
    ],
)
def test_a_wrong_traceparent_is_ignored(parent: object) -> None:
    assert read_trace({"traceparent": parent, "tracestate": "a=b"}) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", True),
        ("a=b, ,c@d/e=f g", True),
        (",".join(f"k{number}=v" for number in range(32)), True),
        (",".join(f"k{number}=v" for number in range(33)), False),
        ("", False),
        ("no member", False),
        ("A=b", False),
        ("a=b\n", False),
        ("a=\x1b[31m", False),
        (f"a={'b' * 256}", True),
        (f"a={'b' * 257}", False),
        (f"a={'b' * 256},c={'d' * 256}", False),
        (["a=b"], False),
    ],
)
def test_a_wrong_tracestate_alone_is_left_out(state: Any, kept: bool) -> None:
    read = read_trace({"traceparent": PARENT, "tracestate": state})
    assert read == Trace(PARENT, state if kept else None)


def test_later_versions_of_the_same_form_are_read() -> None:
    assert read_trace({"traceparent": f"01{PARENT[2:]}"}) == Trace(f"01{PARENT[2:]}")
