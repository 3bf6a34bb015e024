"""The report of a study, rendered as Markdown, HTML, JSON, plots and terminal output.

`document.py` works everything out; the other modules only set it. Nothing here is imported before
it is needed.
"""
