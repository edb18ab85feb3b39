"""raykd: train a small network to stand in for a large one, with or without the large one's data.

Importing the package loads nothing else; ``raykd.cli`` is the way in from a shell.
"""

__version__ = "0.1.0"
