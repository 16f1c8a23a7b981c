"""Tokens and PINs: generated, hashed, encrypted, masked. No plain text leaves this package."""
