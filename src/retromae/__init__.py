"""retromae: turn a pile of text into a better retriever."""

from importlib.metadata import version

__version__ = version("retromae")
