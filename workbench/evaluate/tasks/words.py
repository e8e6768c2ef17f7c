"""Words and their first letters, and a tree of planted directions: parents whose latents children may absorb.

case = Case(codec, subject, rows, given={"words": words(subject, "10.resid")})
evaluate.run([case], ["absorption", "splitting"])
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...site import Site
from ...subject import Subject
from ...testbeds import world
from ..examples import Examples


def words(
    subject: Subject,
    site: Site | str,
    *,
    words: Sequence[str] | None = None,
    shots: int = 0,
    least: int = 10,
    target: Site | str | None = None,
    seed: int = 0,
) -> Examples:
    """The activation of each word in `The word ocean`, labelled by its first letter; every word is its own group.

    `words` are `vocabulary(subject)` when None; the 638 of the prompt set `first_letters` are too few for a probe in
    some hundred dimensions. `shots` other words with their letters stand before, as in that set; the text ends at the
    word, since what follows cannot change its activation. Letters of fewer than `least` words are left out, so that
    every fold has some.
    Raises ValueError for a word that is no single token after a space (`single_tokens` finds those that are), that
    stands there twice or begins with no letter, or when fewer than two letters are left.
    """
    given = list(vocabulary(subject) if words is None else words)
    if odd := [w for w in given if not w[:1].isalpha()]:
        raise ValueError(f"words must begin with a letter, got {', '.join(map(repr, odd[:5]))}")
    if len(set(given)) < len(given):
        raise ValueError(f"words must differ: {next(w for w in given if given.count(w) > 1)!r} is there twice")
    if long := sorted(set(given) - set(single_tokens(subject, given))):
        raise ValueError(
            f"{len(long)} of {len(given)} words are not one token of {subject.name} after a space, such as "
            f"{', '.join(map(repr, long[:3]))}: give words=single_tokens(subject, words)"
        )
    first = [w[0].upper() for w in given]
    letters = sorted(a for a in set(first) if first.count(a) >= least)
    if len(letters) < 2:
        raise ValueError(f"{len(letters)} letters have {least} words or more: give more words, or a smaller least")
    if not 0 <= shots < len(given):
        raise ValueError(f"shots must be 0 to {len(given) - 1}, got {shots}")
    rng, texts, chosen = np.random.default_rng(seed), [], [w for w in given if w[0].upper() in letters]
    for word in chosen:
        others = [given[i] for i in rng.permutation(len(given))[: shots + 1].tolist() if given[i] != word][:shots]
        shown = "".join(f"The word {other} has the first letter: {other[0].upper()}\n" for other in others)
        texts.append(f"{shown}The word {word}")
    letter = torch.tensor([letters.index(w[0].upper()) for w in chosen])
    tokens = subject.tokenize(texts)
    asked = torch.tensor([ids[0] for ids in _ids(subject, chosen)])
    place = torch.where(tokens.ids == asked[:, None], torch.arange(tokens.ids.shape[1]), -1).amax(1)
    if (place < 0).any():
        raise ValueError(f"{subject.name} reads {chosen[int(place.argmin())]!r} as other tokens in a sentence: drop it")
    at = torch.zeros_like(tokens.mask).scatter(1, place[:, None], True)
    return Examples.read(
        subject, tokens, site, {"letter": letter}, {"letter": letters}, target=target, at=at, seed=seed, unit="word"
    )


def vocabulary(subject: Subject, most: int = 100) -> list[str]:
    """Lower-case English letters, three or more, that are one token after a space: of each first letter `most`.

    In order of token id, which for BPE is from frequent to rare. Raises ValueError for a subject without a tokenizer.
    """
    known = [token for token, _ in sorted(_tokenizer(subject).get_vocab().items(), key=lambda pair: pair[1])]
    spaced = [token[1:] for token in known if token[:1] in ("\u0120", "\u2581")]  # how BPE and unigram write a space
    by_letter: dict[str, list[str]] = {}
    for word in spaced or known:
        if len(word) >= 3 and word.isascii() and word.isalpha() and word.islower():
            by_letter.setdefault(word[0], []).append(word)
    return single_tokens(subject, [word for some in by_letter.values() for word in some[:most]])


def single_tokens(subject: Subject, words: Sequence[str]) -> list[str]:
    """The words that are one token of the subject after a space. Raises ValueError when it has no tokenizer."""
    return [w for w, i in zip(words, _ids(subject, words), strict=True) if len(i) == 1]


def _tokenizer(subject: Subject) -> Any:
    if subject.tokenizer is None:
        raise ValueError(f"{subject.name} has no tokenizer, so it has no words: take a language model")
    return subject.tokenizer


def _ids(subject: Subject, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word after a space."""
    return _tokenizer(subject)([f" {w}" for w in words], add_special_tokens=False)["input_ids"] if words else []


def hierarchy(
    n: int = 4096,
    *,
    roots: bool = False,
    seed: int = 0,
    root: float = 0.2,
    child: float = 0.2,
    noise: float = 0.01,
    world_seed: int = 0,
) -> Examples:
    """Rows of the world `hierarchy`; a label says of each parent, or of the `roots` only, whether it is on.

    The arguments from `root` on are the world's. What a child's latent may absorb is known: the parent's direction.
    Raises ValueError when a parent is on in no row, or in all.
    """
    data: Any = world("hierarchy", root=root, child=child, noise=noise, world_seed=world_seed)
    rows = data.sample(n, seed)
    on = rows.code != 0
    parents = [i for i, p in enumerate(data.parents) if i in data.parents and (p < 0 or not roots)]
    return Examples.of(
        rows.x,
        {f"parent {i}": on[:, i].long() for i in parents},
        {f"parent {i}": ("off", "on") for i in parents},
        seed=seed,
        unit="row",
    )
