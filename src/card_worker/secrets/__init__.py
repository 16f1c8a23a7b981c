"""Tokens and PINs: drawn, hashed, masked, sealed. What is here never goes anywhere in clear."""
