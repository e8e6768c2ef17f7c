"""Texts to activations: corpora, token rows, the checksummed store on disk, live streams."""

from .codes import Codes, encode
from .collect import collect
from .corpora import Corpus, corpus
from .live import Live
from .mixed import Mixed
from .store import Store

__all__ = ["Codes", "Corpus", "Live", "Mixed", "Store", "collect", "corpus", "encode"]
