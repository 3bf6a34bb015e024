"""Trains by starting any command and steering its learning rate from outside."""
