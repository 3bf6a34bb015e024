"""The study on disk: its database, and the checkpoints beside it."""
