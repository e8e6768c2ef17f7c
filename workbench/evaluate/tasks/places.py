"""Rows at the names of cities, with their coordinates: what `geospatial` wants."""

from typing import TYPE_CHECKING

import torch

from ...site import Site
from ...testbeds.prompt import prompt_set
from ..evals.geospatial import Places
from ..examples import Examples

if TYPE_CHECKING:
    from ...subject import Subject


def places(subject: "Subject", site: Site | str, *, n: int = 600, seed: int = 0) -> Places:
    """n of the thousand largest cities, `The city of Lagos`, read at the last token; countries are the groups."""
    prompts = prompt_set("places", n=n, seed=seed)
    countries = sorted(set(prompts.labels["country"]))
    group = torch.tensor([countries.index(c) for c in prompts.labels["country"]])
    tokens = subject.tokenize(prompts.texts)
    read = Examples.read(subject, tokens, site, {}, {}, at="last", group=group, seed=seed, unit="country")
    return Places(
        read,
        torch.tensor(prompts.labels["latitude"].tolist()),
        torch.tensor(prompts.labels["longitude"].tolist()),
    )
