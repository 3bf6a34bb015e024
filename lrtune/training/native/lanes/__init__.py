"""Lanes: where a model is trained, one run after another."""
