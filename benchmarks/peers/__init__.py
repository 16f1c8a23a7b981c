"""The same activation as others would write it: queue by queue, without a line of card_worker."""
