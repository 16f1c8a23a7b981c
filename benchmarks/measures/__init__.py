"""What is measured: one module a measure, each with `run`, which returns its results."""
