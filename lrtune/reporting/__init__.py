"""What a study found, as people and programs read it: one report, rendered as Markdown, HTML, JSON, plots and terminal.

`document.py` works everything out; the other modules only set it. Nothing here is imported before
it is needed.
"""
