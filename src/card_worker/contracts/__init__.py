"""The public language: what a producer may send and what comes back."""
