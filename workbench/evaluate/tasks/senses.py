"""Pairs of contexts that close with the same word, in one sense or in two: what `polysemy` wants."""

from typing import TYPE_CHECKING

import torch

from ...site import Site
from ...testbeds.prompt import prompt_set
from ..evals.polysemy import Pairs
from ..examples import Examples

if TYPE_CHECKING:
    from ...subject import Subject


def senses(subject: "Subject", site: Site | str, *, words: int = 200, seed: int = 0) -> Pairs:
    """Two pairs of each of `words` words, read at the word that closes the context: one same sense, one different.

    From the prompt set `polysemous`. Raises ValueError where the closing word is not the same token in all contexts.
    """
    prompts = prompt_set("polysemous", n=3 * words, seed=seed)
    tokens = subject.tokenize(prompts.texts)
    last = tokens.ids[torch.arange(len(tokens.ids)), tokens.mask.long().sum(-1) - 1].view(words, 3)
    if odd := int((last != last[:, :1]).any(-1).sum()):
        raise ValueError(
            f"{odd} of {words} words close with different tokens of {subject.name}: choose another subject"
        )
    read = Examples.read(subject, tokens, site, {}, {}, at="last", group=torch.arange(words).repeat_interleave(3))
    a, alike, other = read.x.unflatten(0, (words, 3)).unbind(1)
    different = torch.tensor([False, True]).repeat(words)
    return Pairs(
        a.repeat_interleave(2, 0),
        torch.stack([alike, other], 1).flatten(0, 1),
        different,
        torch.arange(words).repeat_interleave(2),
        read.share_excluded,
    )
