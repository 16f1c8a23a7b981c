"""The bugs of `make planted` can still be planted. Whether they are caught is too long for here."""

from pathlib import Path

import pytest

from tests.planted.bugs import BUGS, Bug, Misplaced

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_text_of_a_bug_stands_in_its_file_once(bug: Bug) -> None:
    bug.place(ROOT)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_tests_that_should_catch_it_are_there(bug: Bug) -> None:
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text()


def test_there_are_enough_of_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25


@pytest.mark.parametrize(("text", "times"), [("once", 0), ("twice", 2)])
def test_a_text_that_is_not_there_once_is_told(text: str, times: int, tmp_path: Path) -> None:
    file = tmp_path / "src" / "card_worker" / "some.py"
    file.parent.mkdir(parents=True)
    file.write_text("twice twice")
    bug = Bug("any", "some.py", text, "", ())
    with pytest.raises(Misplaced, match=f"'{text}' stands {times} times in some.py"):
        bug.place(tmp_path)
    with pytest.raises(Misplaced), bug.planted(tmp_path):
        pass
