"""Trains by running a command of the user's, whose learning rate is set from outside."""
