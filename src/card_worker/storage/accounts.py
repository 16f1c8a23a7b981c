"""The rules of accounts. An account without rules of its own has no row."""

from collections.abc import Callable, Collection

from sqlalchemy import Connection, Engine, delete, insert

from card_worker.domain.rows import Account
from card_worker.money import Currency
from card_worker.storage.engine import begin
from card_worker.storage.json_rows import find_rows
from card_worker.storage.pipeline import Pending
from card_worker.storage.tables import accounts


def find_accounts(
    connection: Connection, account_ids: Collection[str]
) -> Pending[dict[str, Account]]:
    """Find those of the accounts that have a row; pending, by account_id."""
    keys = [{"account_id": account_id} for account_id in account_ids]
    rows = find_rows(connection, accounts, Account, keys)
    return lambda: {row.account_id: _read(row) for row in rows()}


def change_account(
    engine: Engine, account_id: str, change: Callable[[Account], Account]
) -> Account:
    """Replace the rules of an account by what `change` returns for them; return the new rules."""
    with begin(engine) as (connection, _):
        known = find_accounts(connection, [account_id])().get(account_id, Account(account_id))
        changed = change(known)
        assert changed.account_id == account_id
        connection.execute(delete(accounts).where(accounts.c.account_id == account_id))
        connection.execute(insert(accounts).values(changed._asdict()))
    return changed


def _read(account: Account) -> Account:
    codes = account.currencies
    currencies = None if codes is None else tuple(Currency(code) for code in codes)
    recipients = None if account.recipients is None else tuple(account.recipients)
    return account._replace(currencies=currencies, recipients=recipients)
