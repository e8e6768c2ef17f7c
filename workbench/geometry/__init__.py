"""The shape of dictionaries, each answer beside its null; what is near is read from the vectors, never from a map."""

from .align import Aligned, align
from .beside import Against
from .clusters import clusters
from .cofiring import Cofiring, Counts, association, cofiring, counts
from .crystals import PAIRS, Crystals, Relations, crystals, word_pairs
from .drift import Drift, Formation, drift, formation, mean_directions, tops
from .families import Families, Routes, Splits, families, routes, splits
from .flow import Deactivation, Flow, Origins, deactivation, flow, origins, predecessors, rescaled
from .galaxy import Galaxy, galaxies, galaxy
from .hierarchy import Babel, Coherence, Conditional, Depth, babel, class_vectors, coherence, conditional, depth
from .layers import (
    Correlated,
    Folded,
    Matched,
    Persistence,
    SeedOverlap,
    Skipped,
    correlated,
    fold,
    layer_skip,
    moved,
    persistence,
    sae_match,
    seed_overlap,
)
from .lobes import Lobes, lobes
from .match import SHARED, Match, Nearest, match, mutual, nearest, random_directions, shared, shuffled
from .models import Pairs, Universality, about, by_words, correlate, one_to_one, top_words, universality
from .neighbours import Neighbours, neighbours
from .parallelograms import Parallelograms, parallelograms
from .plane import Mixing, Plane, plane
from .selection import Mona, Selected, active_latents, greedy, likeness, mean_code, mona, simscale
from .similarity import LayerSimilarity, Score, cka, jaccard, layer_similarity, rsa, svcca
from .subspace import (
    Circle,
    Flat,
    Irreducible,
    Overlap,
    Rank,
    angles,
    circle,
    components,
    effective_rank,
    flat,
    irreducible,
    linked,
    overlap,
)
from .trust import agreement, by_chance, recall, trustworthiness

__all__ = [
    "PAIRS", "SHARED", "Against", "Aligned", "Babel", "Circle", "Cofiring", "Coherence", "Conditional", "Correlated",
    "Counts", "Crystals", "Deactivation", "Depth", "Drift", "Families", "Flat", "Flow", "Folded", "Formation", "Galaxy",
    "Irreducible", "LayerSimilarity", "Lobes", "Match", "Matched", "Mixing", "Mona", "Nearest", "Neighbours", "Origins",
    "Overlap", "Pairs", "Parallelograms", "Persistence", "Plane", "Rank", "Relations", "Routes", "Score", "SeedOverlap",
    "Selected", "Skipped", "Splits", "Universality", "about", "active_latents", "agreement", "align", "angles",
    "association", "babel", "by_chance", "by_words", "circle", "cka", "class_vectors", "clusters", "cofiring",
    "coherence", "components", "conditional", "correlate", "correlated", "counts", "crystals", "deactivation", "depth",
    "drift", "effective_rank", "families", "flat", "flow", "fold", "formation", "galaxies", "galaxy", "greedy",
    "irreducible", "jaccard", "layer_similarity", "layer_skip", "likeness", "linked", "lobes", "match", "mean_code",
    "mean_directions", "mona", "moved", "mutual", "nearest", "neighbours", "one_to_one", "origins", "overlap",
    "parallelograms", "persistence", "plane", "predecessors", "random_directions", "recall", "rescaled", "routes",
    "rsa", "sae_match", "seed_overlap", "shared", "shuffled", "simscale", "splits", "svcca", "tops", "top_words",
    "trustworthiness", "universality", "word_pairs",
]  # fmt: skip
