"""All the SQL. The same code and the same tests on PostgreSQL and on SQLite."""
