"""Where each latent fires, what it writes, and the cards that show both."""

from . import neuronpedia
from .cards import Cards, card, cards
from .effects import effects
from .figures import density_figure
from .index import Context, Index, index

__all__ = ["Cards", "Context", "Index", "card", "cards", "density_figure", "effects", "index", "neuronpedia"]
