"""`card-worker report`: what the issuer of the cards owes, and how that came about."""
