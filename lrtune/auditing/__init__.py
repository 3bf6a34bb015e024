"""Checks whether the schedule that runs in any training loop is the one that was meant."""
