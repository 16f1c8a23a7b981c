"""What is done to the cards of a batch, chunk by chunk: made, removed, let go, called back."""
