"""`card-worker doctor`: checks of settings, servers and data."""
