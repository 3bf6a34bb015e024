"""Replays a search on trainings that are on record.

A replay tells what the search would have spent, and what it would have recommended.
"""
