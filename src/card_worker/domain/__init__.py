"""The core: rules over rows held in memory. No database, clock, randomness or broker."""
