"""Toy circuits: their paths and edges are what they say, found again by brute force on the modules."""

import math
from itertools import product

import pytest
import torch

import workbench as wb
from workbench import testbeds
from workbench.code import Codec
from workbench.testbeds.vectors import Oracle

N = 10_000


def near(count: float, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial: one false alarm in 16,000."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1


def fvu_and_f1(world, oracle, x, code):
    left = (oracle.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    found = oracle.encode(x).to_dense() != 0
    right = (found & (code != 0)).sum()
    return float(left), 2 * float(right) / float(found.sum() + (code != 0).sum())


# ---- two hops


def test_targets_agree_with_slow_loops_over_paths_on_10000_rows():
    world = testbeds.world("two_hop")
    found, t = world.sample(N, 1), world.truth
    first, second, direct = t.first.tolist(), t.second.tolist(), t.direct.tolist()
    middles, ys = [], []
    for s in found.code.tolist():
        middle = [sum(a * v for a, v in zip(row, s, strict=True)) for row in first]
        by_middle = [sum(b * m for b, m in zip(row, middle, strict=True)) for row in second]
        ys.append(
            [y + sum(c * v for c, v in zip(row, s, strict=True)) for y, row in zip(by_middle, direct, strict=True)]
        )
        middles.append(middle)
    torch.testing.assert_close(found.middle, torch.tensor(middles), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.y, torch.tensor(ys), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(world.contributions(found.code).sum((2, 3)), found.y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(world.model(found.x), found.y, atol=1e-5, rtol=1e-5)


def test_each_path_is_what_cutting_it_in_the_module_takes_away():
    world = testbeds.world("two_hop")
    found, t = world.sample(50, 2), world.truth
    given = world.contributions(found.code)
    for source, way in product(range(8), range(7)):
        model = world.model
        with torch.no_grad():
            if way < 6:  # the middle no longer hears this source
                model.first.weight -= torch.outer(t.middles[way], t.sources[source]) * t.first[way, source]
            else:
                model.second.weight -= torch.outer(t.direct[:, source] @ t.targets, t.sources[source])
        torch.testing.assert_close(found.y - model(found.x), given[:, :, way, source], atol=1e-5, rtol=1e-5)


def test_directions_are_orthonormal_and_edges_as_sparse_as_documented():
    worlds = [testbeds.world("two_hop", world_seed=i) for i in range(100)]
    stream = torch.cat(worlds[0].truth[:3])
    torch.testing.assert_close(stream @ stream.T, torch.eye(19), atol=1e-5, rtol=0)
    for name, p in (("first", 0.4), ("second", 0.4), ("direct", 0.2)):
        weights = torch.stack([getattr(w.truth, name) for w in worlds])
        there = weights[weights != 0]
        assert near(len(there), weights.numel(), p)
        assert near(int((there < 0).sum()), len(there), 0.5)
        assert float(there.abs().min()) >= 0.5 and float(there.abs().max()) <= 1.5
        assert abs(float(there.abs().mean()) - 1) <= 4 * math.sqrt(1 / 12 / len(there))
    code = worlds[0].sample(N, 3).code
    assert all(near(int(count), N, 0.3) for count in (code != 0).sum(0))
    assert abs(float(code[code != 0].mean()) - 1) <= 4 * 0.25 / math.sqrt(int((code != 0).sum()))


# ---- induction by hand


def slow_next(ids):
    """How often each token followed earlier ones like the last: a dict of counts."""
    counts = {}
    for i in range(1, len(ids)):
        if ids[i - 1] == ids[-1] and ids[i - 1] != 0:
            counts[ids[i]] = counts.get(ids[i], 0) + 1
    return counts


def test_rows_and_matches_agree_with_slow_rules_on_10000_samples():
    world = testbeds.world("induction_toy")
    found = world.sample(N, 1)
    for ids, match, period in zip(found.ids.tolist(), found.match.tolist(), found.period.tolist(), strict=True):
        assert ids[0] == 0 and 0 not in ids[1:] and max(ids) <= 16
        assert len(set(ids[1 : 1 + period])) == period
        assert all(ids[i] == ids[i - period] for i in range(1 + period, 25))
        for i, place in enumerate(match):
            earlier = [j for j in range(i) if ids[j] == ids[i]]
            assert place == (earlier[-1] + 1 if earlier else 0)
    assert all(near(int((found.period == t).sum()), N, 1 / 9) for t in range(4, 13))
    assert all(near(int((found.ids[:, 1] == t).sum()), N, 1 / 16) for t in range(1, 17))


def test_the_hand_set_model_is_exact_wherever_the_next_token_is_known():
    world = testbeds.world("induction_toy")
    found = world.sample(1_000, 2)
    logits = world.model(input_ids=found.ids).logits
    known = found.match > 0
    expected = torch.zeros_like(logits)
    expected.scatter_(-1, found.ids.gather(1, found.match)[..., None], 20.0)
    torch.testing.assert_close(logits[known], expected[known], atol=1e-3, rtol=0)
    p = logits[~known].softmax(-1)
    torch.testing.assert_close(p, torch.full_like(p, 1 / 17), atol=1e-5, rtol=0)


def test_any_row_is_answered_by_how_often_a_token_followed():
    world = testbeds.world("induction_toy")
    ids = torch.randint(1, 17, (200, 25), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    logits = world.model(input_ids=ids).logits
    several = 0
    for row, said in zip(ids.tolist(), logits, strict=True):
        for i in range(25):
            counts = slow_next(row[: i + 1])
            several += len(counts) > 1
            high = max(counts.values(), default=0)
            best = {t for t, c in counts.items() if c == high} or set(range(17))
            top = {t for t, v in enumerate(said[i].tolist()) if v > float(said[i].max()) - 1e-3}
            assert top == best
    assert several > 500


def test_heads_attend_where_the_truth_says():
    world = testbeds.world("induction_toy")
    found, model = world.sample(200, 3), world.model
    model.set_attn_implementation("eager")
    first, second = model(input_ids=found.ids, output_attentions=True).attentions
    before = (torch.arange(25) - 1).clamp_min(0)
    assert float(first[:, 0, torch.arange(25), before].min()) > 1 - 1e-6
    one = (found.match > 0) & (torch.arange(25) <= 2 * found.period[:, None])  # one earlier occurrence
    to_match = second[:, 0].gather(-1, found.match[..., None])[..., 0]
    assert float(to_match[one].min()) > 1 - 1e-6
    assert float(second[:, 0, :, 0][found.match == 0].min()) > 1 - 1e-6


def test_edges_of_the_truth_are_all_edges_that_matter():
    # each part writes coordinates of its own, so an edge is cut by zeroing the reader's weights from them
    world = testbeds.world("induction_toy")
    ids, truth = world.sample(100, 4).ids, world.truth
    clean = world.model(input_ids=ids).logits
    width, mattered = world.d // 2, set()
    for layer, head, part in product(range(2), range(2), range(3)):
        writers = ["embed", "positions", "0.0"][: 2 + layer]
        for writer in writers:
            model = world.model
            columns = slice(part * world.d + head * width, part * world.d + (head + 1) * width)
            model.transformer.h[layer].attn.c_attn.weight[world.blocks[writer], columns] = 0
            if float((model(input_ids=ids).logits - clean).abs().max()) > 1:
                mattered.add((writer, f"{layer}.{head}.{'qkv'[part]}"))
    for writer, block in world.blocks.items():
        model = world.model
        model.lm_head.weight[:, block] = 0
        if float((model(input_ids=ids).logits - clean).abs().max()) > 1:
            mattered.add((writer, "logits"))
    assert mattered == set(truth.edges)
    for name in truth.heads + truth.idle:
        layer, head = map(int, name.split("."))
        model = world.model
        model.transformer.h[layer].attn.c_proj.weight[head * width : (head + 1) * width] = 0
        same = torch.equal(model(input_ids=ids).logits, clean)
        assert same == (name in truth.idle)


def test_the_hand_set_model_goes_through_subject():
    world = testbeds.world("induction_toy")
    subject, found = world.subject(), world.sample(4, 5)
    site = wb.Site.of("0.resid")
    h = subject.read(found.ids, [site])[site]
    blocks = torch.zeros_like(h)
    for b, i in product(range(4), range(25)):
        token, previous = int(found.ids[b, i]), int(found.ids[b, max(i - 1, 0)])
        for part, value in (("embed", token), ("positions", i), ("0.0", previous)):
            blocks[b, i, world.blocks[part].start + value] = 1
    torch.testing.assert_close(h, blocks, atol=1e-5, rtol=0)
    new = subject.generate(found.ids[:, :20], new=5)
    assert torch.equal(new.tokens.ids[:, 20:], found.ids[:, 20:])
    assert new.new_texts[0].split() == [f"t{i}" for i in found.ids[0, 20:].tolist()]


# ---- both


@pytest.mark.parametrize("name", ["two_hop", "induction_toy"])
def test_the_oracle_is_exact_and_beats_random_atoms(name):
    world = testbeds.world(name)
    oracle = world.oracle()
    assert isinstance(oracle, Codec)
    if name == "two_hop":
        found = world.sample(1_000, 6)
        x, code = found.x, found.code
    else:
        ids = world.sample(40, 6).ids
        x = world.model(input_ids=ids, output_hidden_states=True).hidden_states[1].flatten(0, 1)
        code = (x[:, : oracle.latents] > 0.5).float()
    left, f1 = fvu_and_f1(world, oracle, x, code)
    assert left < 1e-6 and f1 == 1
    random = torch.nn.functional.normalize(torch.randn(oracle.atoms().shape), dim=-1)
    chance, _ = fvu_and_f1(world, Oracle(random, most=oracle.most, tolerance=oracle.tolerance, signed=True), x, code)
    assert chance > 0.2  # as many atoms as the oracle may take, of either sign


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("two_hop", {"d": 18}), ("two_hop", {"on": 0.0}), ("two_hop", {"middles": 0}),
        ("induction_toy", {"longest": 17}), ("induction_toy", {"shortest": 0}), ("induction_toy", {"length": 60}),
    ],
)  # fmt: skip
def test_circuits_that_cannot_be_are_refused(name, bad):
    with pytest.raises(ValueError, match="got"):
        testbeds.world(name, **bad)
