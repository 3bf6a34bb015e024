"""Data: what is trained on, and how it gets to the device in batches."""
