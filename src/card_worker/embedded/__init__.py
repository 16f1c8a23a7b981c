"""The whole system on one machine, without any server to set up: for demo, dev and tests."""
