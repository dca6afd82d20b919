"""Which method to trust: methods side by side on one's own pictures."""
