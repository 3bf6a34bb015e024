"""The rules: pure functions from what was recorded to what to do or to say.

One of them remembers its last answer, `trials_of`; that changes its pace and nothing else.
"""
