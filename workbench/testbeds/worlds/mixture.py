"""Six Markov chains over one vocabulary, and a small mixture-of-experts language model of them.

Vocabulary: `per` tokens for every way to choose `share` of the domains; a token is used by these domains and by no
other. By default all six share the same 24 tokens, each as often as any other, so that one token says nothing of the
domain; with share=3, per=2 there are 2 x 20 tokens, each domain uses 20, and one token leaves three domains equally
likely. A domain's chain: each of its tokens has 4 different successors among them, none itself, with probabilities 0.5,
0.25, 0.15 and 0.1; each of the four is a random permutation of the domain's tokens, so the chain keeps the uniform
distribution, and its entropy rate is that of the four probabilities (1.208 nats a token).
A row: the domain uniform, the first token uniform among the domain's, then `length - 1` steps of its chain; no other
mark of the domain. `exact` gives what a reader who knows all chains, but not the domain, pays for each token.
The model: Mixtral (Jiang et al. 2024, arXiv:2401.04088), 2 layers, 8 experts, 2 of them for each token. Its experts'
mean use over a text tells the domain of 95 % of texts held out, with seed 1 of 93 % (`python -m
workbench.testbeds.train mixture --seed 1`). Chance is what the same reader gets from an untrained model: 20 %
(guessing: 1/6). With share=3, per=2 routers that were never trained reach 98 %: they tell tokens apart from the start,
and domains use different ones.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from ...html import Markup, tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import mixtral, word_tokenizer

WEIGHTS = (0.5, 0.25, 0.15, 0.1)  # of a token's successors


class Texts(NamedTuple):
    """Token rows and the domain that each comes from."""

    ids: Int[Tensor, "row pos"]
    domain: Int[Tensor, " row"]


class Chains(NamedTuple):
    """Successors by falling probability (-1: not the domain's token), transition matrices, stationary distributions,
    and entropy rates in nats a token."""

    successors: Int[Tensor, "domain vocab 4"]
    transition: Float[Tensor, "domain vocab vocab"]
    stationary: Float[Tensor, "domain vocab"]
    entropy: Float[Tensor, " domain"]


@dataclass(frozen=True)
class Mixture:
    """Texts of several Markov chains. `truth` holds the chains, in float64."""

    domains: int
    share: int
    per: int
    length: int
    seed: int

    @cached_property
    def members(self) -> Int[Tensor, "domain own"]:
        """The tokens of each domain."""
        chosen = list(combinations(range(self.domains), self.share))
        users = [set(group) for group in chosen for _ in range(self.per)]
        return torch.tensor([[t for t, group in enumerate(users) if d in group] for d in range(self.domains)])

    @property
    def vocab(self) -> int:
        return int(self.members.max()) + 1

    @cached_property
    def truth(self) -> Chains:
        rng = np.random.default_rng(self.seed)
        successors = torch.full((self.domains, self.vocab, len(WEIGHTS)), -1)
        for d, own in enumerate(self.members):
            taken = [np.arange(len(own))]  # no token follows itself
            while len(taken) <= len(WEIGHTS):
                new = rng.permutation(len(own))
                if all((new != old).all() for old in taken):
                    taken.append(new)
            successors[d, own] = own[torch.from_numpy(np.stack(taken[1:], -1))]
        weights = torch.tensor(WEIGHTS, dtype=torch.float64)
        used = (successors[..., 0] >= 0).double()
        transition = (one_hot(successors.clamp_min(0), self.vocab) * weights[:, None]).sum(2) * used[..., None]
        stationary = used / used.sum(-1, keepdim=True)
        entropy = -(stationary[..., None] * torch.xlogy(transition, transition)).sum((1, 2))
        return Chains(successors, transition, stationary, entropy)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Texts:
        following = self.truth.successors.numpy()
        own, bounds = self.members.numpy(), np.cumsum(WEIGHTS)[:-1]

        def draw(rng: np.random.Generator, n: int) -> Texts:
            domain = rng.integers(0, self.domains, n)
            ids = np.empty((n, self.length), dtype=np.int64)
            ids[:, 0] = own[domain, rng.integers(0, own.shape[1], n)]
            which = np.searchsorted(bounds, rng.random((n, self.length)), side="right")
            for t in range(1, self.length):
                ids[:, t] = following[domain, ids[:, t - 1], which[:, t]]
            return Texts(torch.from_numpy(ids), torch.from_numpy(domain))

        return rows(draw, n, seed, start)

    def posterior(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos domain"]:
        """Log-probability of each domain given the tokens up to and with each position (Bayes, exact, float64)."""
        start = self.truth.stationary.log().T[ids[:, 0]]  # (row, domain)
        steps = self.truth.transition.log()[:, ids[:, :-1], ids[:, 1:]].permute(1, 2, 0)
        return torch.cat([start[:, None], steps], 1).cumsum(1).log_softmax(-1)

    def exact(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row next"]:
        """Surprise in nats of tokens 1, 2, ... for the best predictor that is not told the domain."""
        steps = self.truth.transition.log()[:, ids[:, :-1], ids[:, 1:]].permute(1, 2, 0)
        return -(self.posterior(ids)[:, :-1] + steps).logsumexp(-1)

    def blind(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row next"]:
        """Surprise in nats of tokens 1, 2, ... for the best predictor that sees the token before only."""
        both = (self.truth.stationary[..., None] * self.truth.transition).mean(0)
        return -(both / both.sum(-1, keepdim=True)).log()[ids[:, :-1], ids[:, 1:]]

    def words(self) -> list[str]:
        """A syllable for each token."""
        syllables = ["".join(p) for p in product("bdfgklmnprstvz", "aeiou", ("", "n", "r", "s"))]  # 280
        return syllables[:: 280 // self.vocab][: self.vocab]

    def figure(self, seed: int = 0) -> Any:
        """The probability of the next token (column) after a token (row), in each domain."""
        from plotly.subplots import make_subplots

        names = [f"domain {d}" for d in range(self.domains)]
        wide = -(-self.domains // 2)
        figure = make_subplots(
            2, wide, subplot_titles=names, shared_xaxes=True, shared_yaxes=True, x_title="next token", y_title="token",
            vertical_spacing=0.1, horizontal_spacing=0.04,
        )  # fmt: skip
        for d, matrix in enumerate(self.truth.transition):
            figure.add_heatmap(
                z=matrix.tolist(), colorscale="Greys", zmin=0, zmax=0.5, showscale=d == 0,
                colorbar_title="probability", row=1 + d // wide, col=1 + d % wide,
            )  # fmt: skip
        figure.update_yaxes(autorange="reversed", mirror=True, linecolor="#888")
        figure.update_xaxes(mirror=True, linecolor="#888")
        return figure.update_layout(
            title="Each domain's chain over the shared tokens", template="plotly_white", height=600, margin_l=80
        )

    def _repr_html_(self) -> str:
        angle = torch.arange(self.vocab) * (2 * torch.pi / self.vocab)
        x, y = (18 + 16 * angle.cos()).tolist(), (18 + 16 * angle.sin()).tolist()
        rings = []
        for d, own in enumerate(self.members.tolist()):
            ends = self.truth.successors[d, :, 0].tolist()
            path = "".join(f"M{x[t]:.0f} {y[t]:.0f}L{x[ends[t]]:.0f} {y[ends[t]]:.0f}" for t in own)
            line = {"d": path, "fill": "none", "stroke": f"hsl({360 * d // self.domains} 60% 45%)", "stroke-width": 0.7}
            ring = tag("path", attrs=line)
            rings.append(tag("svg", ring, attrs={"width": 36, "height": 36, "style": "vertical-align:middle"}))
        said = f" {self.domains} chains over {self.vocab} tokens (the likeliest step of each)"
        return tag("div", tag("b", "mixture"), " ", Markup("".join(rings)), said)


def mixture(domains: int = 6, share: int = 6, per: int = 24, length: int = 64, seed: int = 0) -> Mixture:
    """Texts of Markov chains over a shared vocabulary. Raises ValueError when a chain has too few tokens or steps."""
    if not 2 <= domains <= 8 or not 1 <= share <= domains or per < 1 or length < 2:
        raise ValueError(
            "domains must be 2 to 8, share 1 to domains, per 1 or more, length 2 or more, "
            f"got {domains}, {share}, {per}, {length}"
        )
    made = Mixture(domains, share, per, length, seed)
    own = made.members.shape[1]
    if own < 10 or made.vocab > 280:
        raise ValueError(f"a domain needs 10 tokens or more of 280 at most in all: {own} of {made.vocab}; change per")
    return made


WORLD = mixture()
BALANCE = 0.001  # of the load-balancing loss; with ten times more experts tell domains apart less well


@torch.no_grad()
def expert_use(model: nn.Module, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row layer expert"]:
    """How often each expert of each layer was chosen, per token; the sum over a layer is the experts for a token."""
    found: Any = model(input_ids=ids, output_router_logits=True).router_logits  # one (row * pos, expert) a layer
    top = model.config.num_experts_per_tok  # type: ignore[union-attr]
    chosen = [one_hot(r.topk(top, -1).indices, r.shape[-1]).sum(1) for r in found]
    return torch.stack([c.view(*ids.shape, -1).float().mean(1) for c in chosen], 1)


def _loss(model: nn.Module, ids: Int[Tensor, "row pos"]) -> Float[Tensor, ""]:
    out = model(input_ids=ids, output_router_logits=True)
    surprise = cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
    return surprise + model.config.router_aux_loss_coef * out.aux_loss  # type: ignore[union-attr]


def _build(seed: int) -> nn.Module:
    return mixtral(WORLD.vocab, length=WORLD.length, balance=BALANCE)


def _read(model: nn.Module, seen: Texts, held: Texts) -> int:
    """How many domains of held texts a logistic regression on expert use gets right, fitted to those seen."""
    from sklearn.linear_model import LogisticRegression

    used, asked = (expert_use(model, t.ids).flatten(1).double().numpy() for t in (seen, held))
    reader = LogisticRegression(C=100, max_iter=2000).fit(used, seen.domain.numpy())
    return int((reader.predict(asked) == held.domain.numpy()).sum())


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    seen, held = WORLD.sample(1024, 1), WORLD.sample(2048, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = _read(_build(seed).eval(), seen, held) / 2048
    domain = Quality.share("domain from expert use", _read(model, seen, held), 2048, chance=untrained, goal=0.9)
    ids = held.ids[:512]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    paid = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    exact, blind = WORLD.exact(ids), WORLD.blind(ids)
    chance = float((blind - exact).mean())
    above = Quality.mean("loss above exact", (paid - exact).mean(1), chance=chance, goal=0.05, unit="nats/token")
    return [domain, above]


TASKS = {
    "mixture": Task(
        build=_build,
        batch=lambda seed, step: WORLD.sample(64, seed + 2, 64 * step).ids,
        loss=_loss,
        quality=_quality,
        steps=1000,
        lr=3e-3,
        weight_decay=0.05,
        tokenizer=lambda: word_tokenizer(WORLD.words()),
        site="1.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data="texts of six Markov chains over the same 24 tokens",
    )
}
