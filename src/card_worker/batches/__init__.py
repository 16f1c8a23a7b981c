"""Jobs: what is done to the cards of a batch, chunk by chunk. Cards are made, removed, recalled."""
