"""The lines of a bureau's file are CSV for any card_ids."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from card_worker.bureau_file import Values, csv_lines

NAMES = st.text(st.sampled_from("a1 ,;\"'\r\n\té"), min_size=1, max_size=6)
ROWS = st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["", "4711"])), max_size=5)


@given(ROWS)
def test_lines_are_equal_to_those_of_the_csv_module(rows: list[tuple[str, str, str]]) -> None:
    ids, tokens, pins = ([row[at] for row in rows] for at in range(3))
    kinds = ["gift_card"] * len(rows)
    written = io.StringIO(newline="")
    csv.writer(written).writerows(zip(ids, tokens, pins, kinds, strict=True))
    assert csv_lines(ids, Values(tokens, pins), kinds).decode() == written.getvalue()
