"""Texts to activations: corpora, token rows, the checksummed store on disk, live streams."""

from .collect import collect
from .corpora import Corpus, corpus
from .live import Live
from .store import Store

__all__ = ["Corpus", "Live", "Store", "collect", "corpus"]
