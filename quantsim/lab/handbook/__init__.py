"""The handbook: formats, metrics, conventions, theory, populations, remedies, studies and claims, each in a topic.

What the code knows is derived from it: bits, levels, sizes, formulas of docstrings, questions of studies. What it does
not know stands in tables of words beside it. ``quantsim explain`` prints a topic; the pages in ``docs/`` are made of
them.
"""

from quantsim.lab.handbook.index import explained, topics
from quantsim.lab.handbook.pages import pages
from quantsim.lab.handbook.topic import Topic, lines

__all__ = ["Topic", "explained", "lines", "pages", "topics"]
