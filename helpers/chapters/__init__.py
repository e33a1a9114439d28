"""Chapters as programs: checked parameters in, a complete notebook out. `python -m helpers.chapters -h`."""
