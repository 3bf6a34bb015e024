"""Replaying a search on trainings that are on record: what it would have spent, and what it would have recommended."""
