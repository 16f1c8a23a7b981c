"""Defects that are planted in the database, so that no code of ours is replaced."""

from sqlalchemy import Engine, text

from tests.flow.processes import until

PLANT = """
CREATE SEQUENCE defect_starts;
CREATE FUNCTION defect() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.card_id LIKE 'defect%%' THEN
        -- It goes on counting when the commit is rolled back.
        PERFORM nextval('defect_starts');
        IF NEW.card_id LIKE 'defect-hangs%%' THEN PERFORM pg_sleep(600); END IF;  -- hangs
        RAISE EXCEPTION 'planted: %%', NEW;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER defect BEFORE INSERT OR UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION defect();
"""


def plant(engine: Engine) -> None:
    """Let every command fail that makes a card `defect…`, and never end for `defect-hangs…`."""
    _run(engine, PLANT)


def hang_no_longer(engine: Engine) -> None:
    """Let what hung fail like the others."""
    lines = [line for line in PLANT.splitlines() if not line.endswith("-- hangs")]
    function = "\n".join(lines).split("CREATE FUNCTION")[1].split("CREATE TRIGGER")[0]
    _run(engine, f"CREATE OR REPLACE FUNCTION {function}")


def remove(engine: Engine) -> None:
    """Let them succeed again."""
    _run(engine, "DROP TRIGGER defect ON cards; DROP FUNCTION defect; DROP SEQUENCE defect_starts")


def _run(engine: Engine, statements: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statements)


def starts(engine: Engine) -> int:
    """Return how many commands have met the defect."""
    with engine.connect() as connection:
        asked = text("SELECT last_value * is_called::int FROM defect_starts")
        return int(connection.execute(asked).scalar_one())


def await_starts(engine: Engine, number: int) -> None:
    """Return when so many commands have met the defect."""
    until(lambda: starts(engine) == number, f"start {number}")
