"""How fast it is, beside others and beside the database's own limit: `make bench`."""
