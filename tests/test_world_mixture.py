"""Mixture: texts follow their domain's chain, the truth is exact, and expert use is what the routers chose."""

import math
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch

from workbench.testbeds import models
from workbench.testbeds.worlds import mixture as m

WORLD = m.mixture()
# world -> domains that use a token, tokens alike, tokens of a domain, all tokens
WORLDS = {WORLD: (6, 24, 24, 24), m.mixture(share=3, per=2): (3, 2, 20, 40)}
RATE = -sum(p * math.log(p) for p in (0.5, 0.25, 0.15, 0.1))


def slow_members(world):
    """Tokens of each domain, by the rule: `per` tokens for every `share` domains."""
    share, per, *_ = WORLDS[world]
    groups = [g for g in combinations(range(6), share) for _ in range(per)]
    return [{t for t, g in enumerate(groups) if d in g} for d in range(6)]


def slow_chains(world):
    """domain -> {(token, next): probability}, from the list of successors."""
    chains = []
    for successors in world.truth.successors.tolist():
        chance = zip(successors, range(WORLDS[world][3]), strict=True)
        chains.append({(t, s): p for row, t in chance for s, p in zip(row, m.WEIGHTS, strict=True) if s >= 0})
    return chains


@pytest.mark.parametrize("world", WORLDS)
def test_domains_agree_with_slow_likelihoods_on_10000_samples(world):
    _, _, many, _ = WORLDS[world]
    texts, chains, members = world.sample(10_000, 6), slow_chains(world), slow_members(world)
    believed = world.posterior(texts.ids)[:, -1].exp()
    unsure = 0
    for ids, domain, belief in zip(texts.ids.tolist(), texts.domain.tolist(), believed.tolist(), strict=True):
        likelihood = []
        for own, chain in zip(members, chains, strict=True):
            p = 1 / many if ids[0] in own else 0.0
            for pair in zip(ids, ids[1:], strict=False):
                p *= chain.get(pair, 0.0)
                if not p:
                    break
            likelihood.append(p)
        assert likelihood[domain] > 0, "the text follows its domain's chain"
        total = sum(likelihood)
        assert belief == pytest.approx([p / total for p in likelihood], abs=1e-9)
        unsure += max(likelihood) > likelihood[domain]
    assert unsure <= 1


@pytest.mark.parametrize("world", WORLDS)
def test_chains_are_what_the_docstring_says(world):
    _, _, many, vocab = WORLDS[world]
    truth, members = world.truth, slow_members(world)
    for d, own in enumerate(members):
        assert set(world.members[d].tolist()) == own and len(own) == many
        for t in range(vocab):
            row = truth.transition[d, t]
            if t not in own:
                assert row.sum() == 0 and truth.stationary[d, t] == 0
                continue
            after = truth.successors[d, t].tolist()
            assert len(set(after)) == 4 and set(after) <= own - {t}
            assert sorted(row[row > 0].tolist()) == pytest.approx(sorted(m.WEIGHTS))
            assert [float(row[s]) for s in after] == pytest.approx(list(m.WEIGHTS))
        for k in range(4):
            assert {int(s) for s in truth.successors[d, list(own), k]} == own, "a permutation"
    torch.testing.assert_close(torch.einsum("dt,dts->ds", truth.stationary, truth.transition), truth.stationary)
    assert truth.entropy.tolist() == pytest.approx([RATE] * 6)


@pytest.mark.parametrize("world", WORLDS)
def test_one_token_leaves_the_domains_that_share_it(world):
    share, _, _, vocab = WORLDS[world]
    users = Counter(t for own in slow_members(world) for t in own)
    assert users == dict.fromkeys(range(vocab), share)
    first = world.posterior(world.sample(50).ids)[:, 0].exp()
    assert torch.allclose(first.max(-1).values, torch.tensor(1 / share, dtype=torch.float64))


@pytest.mark.parametrize("world", WORLDS)
def test_samples_follow_the_documented_chances(world):
    _, _, many, vocab = WORLDS[world]
    n = 20_000
    texts = world.sample(n, 4)
    for d in range(6):
        p = 1 / 6
        mine = texts.ids[texts.domain == d]
        assert abs(len(mine) / n - p) < 4 * math.sqrt(p * (1 - p) / n)
        for pos in (0, 1, 63):  # the chain starts and stays in its uniform distribution
            counts = torch.bincount(mine[:, pos], minlength=vocab)[world.members[d]].double()
            expected = len(mine) / many
            chi = float(((counts - expected) ** 2 / expected).sum())
            assert abs(chi - (many - 1)) < 4 * math.sqrt(2 * (many - 1)) and counts.sum() == len(mine)
    a, b = texts.ids[:, :-1], texts.ids[:, 1:]
    after = world.truth.successors[texts.domain[:, None], a]  # (row, step, 4)
    shares = (after == b[..., None]).double().mean((0, 1))
    steps = n * 63
    for share, p in zip(shares.tolist(), m.WEIGHTS, strict=True):
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / steps)


@pytest.mark.parametrize("world", WORLDS)
def test_the_exact_surprise_falls_to_the_entropy_rate(world):
    share, _, _, _ = WORLDS[world]
    texts = world.sample(8000, 9)
    exact = world.exact(texts.ids)
    late = exact[:, 20:].mean(1)
    half = 4 * float(late.std()) / math.sqrt(len(late))
    assert abs(float(late.mean()) - RATE) < half < 0.02
    assert float(exact[:, 0].mean()) > RATE + 0.3, "at first the domain must be guessed"
    # the chain rule: what is not known of the domain after the first token costs log(share) at most, over a whole text
    known = -world.truth.transition.log()[texts.domain[:, None], texts.ids[:, :-1], texts.ids[:, 1:]]
    extra = (exact - known).sum(1)
    assert 0 < float(extra.mean()) < math.log(share) + 1e-6


@pytest.mark.parametrize("world", WORLDS)
def test_exact_and_blind_by_brute_force(world):
    share, _, many, _ = WORLDS[world]
    chains, members = slow_chains(world), slow_members(world)
    ids = world.sample(20, 2).ids
    exact, blind = world.exact(ids), world.blind(ids)
    for row, paid, unaware in zip(ids.tolist(), exact.tolist(), blind.tolist(), strict=True):
        weights = [1 / 6 / many if row[0] in own else 0.0 for own in members]
        for t, pair in enumerate(zip(row, row[1:], strict=False)):
            new = [w * c.get(pair, 0.0) for w, c in zip(weights, chains, strict=True)]
            assert paid[t] == pytest.approx(-math.log(sum(new) / sum(weights)), abs=1e-9)
            weights = new
            by_pair = [c.get(pair, 0.0) for own, c in zip(members, chains, strict=True) if pair[0] in own]
            assert unaware[t] == pytest.approx(-math.log(sum(by_pair) / share), abs=1e-9)


def test_expert_use_counts_what_the_routers_chose():
    torch.manual_seed(0)
    model: Any = m.TASKS["mixture"].build(0).eval()
    ids = WORLD.sample(5).ids
    chosen = []
    for block in model.model.layers:
        block.mlp.gate.register_forward_hook(lambda gate, x, out: chosen.append(out[2]))
    use = m.expert_use(model, ids)
    assert use.shape == (5, 2, 8)
    torch.testing.assert_close(use.sum(-1), torch.full((5, 2), 2.0))
    for layer, indices in enumerate(chosen):
        for row, picks in enumerate(indices.view(5, 64 * 2).tolist()):
            counts = Counter(picks)
            assert use[row, layer].tolist() == pytest.approx([counts[e] / 64 for e in range(8)])


def test_the_reader_of_expert_use_learns_from_texts_seen_and_is_judged_on_texts_held(monkeypatch):
    def told(model, ids):
        return torch.nn.functional.one_hot(WORLD.posterior(ids)[:, -1].argmax(-1), 6)[:, None].float()

    seen, held = WORLD.sample(300, 1), WORLD.sample(200, 2)
    model = torch.nn.Identity()
    monkeypatch.setattr(m, "expert_use", told)
    assert m._read(model, seen, held) >= 199
    assert m._read(model, seen._replace(domain=(seen.domain + 1) % 6), held) <= 1, "it answers what it was taught"
    monkeypatch.setattr(m, "expert_use", lambda model, ids: torch.zeros(len(ids), 2, 8))
    assert m._read(model, seen, held) == int((held.domain == seen.domain.bincount().argmax()).sum())


def test_chance_is_an_untrained_model_judged_on_the_same_texts(monkeypatch):
    asked = []
    monkeypatch.setattr(m, "_read", lambda *given: asked.append(given) or (512 if len(asked) == 1 else 2000))
    model, before = m._build(0).eval(), torch.get_rng_state()
    domain = m._quality(model, 20_000)[0]
    assert (domain.value, domain.chance, domain.n) == (2000 / 2048, 0.25, 2048)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are left alone"
    (other, *texts), (same, seen, held) = asked
    assert same is model and other is not model and texts[0] is seen and texts[1] is held
    assert not {tuple(r) for r in seen.ids.tolist()} & {tuple(r) for r in held.ids.tolist()}
    assert torch.equal(held.ids, WORLD.sample(2048, 20_000).ids) and len(seen.ids) == 1024
    torch.manual_seed(77)
    m._quality(model, 20_000)
    once, again = (asked[i][0].state_dict() for i in (0, 2))
    assert all(torch.equal(once[k], again[k]) for k in once), "seeded"


def test_the_loss_is_held_against_the_exact_reader(monkeypatch):
    class Reader(torch.nn.Module):
        """Says what the best reader of the text so far believes, or of the token before only."""

        blind = False

        def forward(self, input_ids):
            alone = WORLD.truth.stationary.log().T[input_ids].log_softmax(-1)
            belief = alone if self.blind else WORLD.posterior(input_ids)
            after = WORLD.truth.transition[:, input_ids].permute(1, 2, 0, 3)  # (row, pos, domain, token)
            return type("Out", (), {"logits": (belief.exp()[..., None] * after).sum(2).log()})

    monkeypatch.setattr(m, "_read", lambda *given: 0)
    model = Reader()
    above = m._quality(model, 20_000)[1]
    assert above.value == pytest.approx(0, abs=1e-6) and above.n == 512
    model.blind = True
    blind = m._quality(model, 20_000)[1]
    assert blind.value == pytest.approx(blind.chance, rel=1e-5) and blind.chance > 0.5


def test_balance_reaches_the_routers():
    model: Any = m.TASKS["mixture"].build(0)
    ids = WORLD.sample(4).ids
    grads = []
    for weight in (0.0, 1.0):
        model.config.router_aux_loss_coef = weight
        model.zero_grad()
        m._loss(model, ids).backward()
        grads.append(model.model.layers[0].mlp.gate.weight.grad.clone())
    assert grads[0].abs().sum() > 0 and not torch.allclose(*grads)


def test_other_sizes_hold_too():
    world = m.mixture(domains=5, share=2, per=3, length=16, seed=2)
    assert world.vocab == 30 and world.members.shape == (5, 12)
    texts = world.sample(300)
    assert texts.ids.shape == (300, 16) and len(set(world.words())) == len(world.words()) == 30
    assert world.exact(texts.ids).isfinite().all()
    assert not torch.equal(world.truth.successors, m.mixture(domains=5, share=2, per=3, seed=3).truth.successors)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"domains": 1}, "domains must be 2 to 8"),
        ({"share": 0}, "share 1 to domains"),
        ({"share": 7}, "share 1 to domains"),
        ({"per": 0}, "per 1 or more"),
        ({"length": 1}, "length 2 or more"),
        ({"share": 3, "per": 0}, "per 1 or more"),
        ({"domains": 4, "share": 2, "per": 3}, "10 tokens or more"),
        ({"share": 3, "per": 15}, "280 at most"),
    ],
)
def test_bad_arguments_are_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        m.mixture(**bad)


def test_a_router_that_could_not_learn_is_refused():
    with pytest.raises(ValueError, match="top must be 2 to experts=8"):
        models.mixtral(10, length=4, top=1)
