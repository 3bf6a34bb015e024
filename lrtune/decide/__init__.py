"""The rules: pure functions from what was recorded to what to do or to say."""
