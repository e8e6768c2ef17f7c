"""Addition and finite groups against plain loops, textbook tables and their own axioms."""

import itertools
import math

import pytest
import torch

from workbench.testbeds.core import HELD_OUT
from workbench.testbeds.worlds import groups as g
from workbench.testbeds.worlds import modular as m
from workbench.testbeds.worlds.groups import groups
from workbench.testbeds.worlds.modular import modular

N = 10_000
SMALL = ["S2", "S3", "S4", "A3", "A4", "C2", "C7", "D3", "D4", "D5", "Q8"]
ALL = [*SMALL, "A5", "S5"]

# complex irreducible dimensions, over the reals (d, kind), and rank bounds; dimensions from the character tables in
# James, Liebeck 2001, ranks 2 |G| - number and sum of 1, 7, 23, 49, 100, 161
REAL, COMPLEX, QUATERNIONIC = "real", "complex", "quaternionic"
KNOWN = {
    "S3": ([(1, REAL)] * 2 + [(2, REAL)], 3, (9, 9)),
    "S4": ([(1, REAL)] * 2 + [(2, REAL)] + [(3, REAL)] * 2, 5, (43, 55)),
    "S5": ([(1, REAL)] * 2 + [(4, REAL)] * 2 + [(5, REAL)] * 2 + [(6, REAL)], 7, (233, 461)),
    "A4": ([(1, REAL), (2, COMPLEX), (3, REAL)], 4, (20, 26)),
    "A5": ([(1, REAL), (3, REAL), (3, REAL), (4, REAL), (5, REAL)], 5, (115, 196)),
    "D4": ([(1, REAL)] * 4 + [(2, REAL)], 5, (11, 11)),
    "Q8": ([(1, REAL)] * 4 + [(4, QUATERNIONIC)], 5, (11, 11)),
    "C7": ([(1, REAL)] + [(2, COMPLEX)] * 3, 7, (7, 7)),
}


def within(count, n, p):
    """Binomial, 4 sigma: one false alarm in 16,000."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_sums_agree_with_plain_addition():
    world = modular()
    p, split = world.p, world.split.tolist()
    ids, answer, train = (f.tolist() for f in world.sample(N, 3))
    for (a, b, equals), c, t in zip(ids, answer, train, strict=True):
        assert equals == p and 0 <= a < p and 0 <= b < p
        assert c == (a + b if a + b < p else a + b - p) == int(world.truth[a, b])
        assert t == split[a][b]
    for place in (0, 1):
        seen = [sum(row[place] == x for row in ids) for x in range(p)]
        assert all(within(c, N, 1 / p) for c in seen)
    assert within(sum(train), N, world.share)


def test_the_two_sides_of_a_split_are_all_pairs_once():
    world = modular(p=11, share=0.3)
    train, test = world.pairs(True), world.pairs(False)
    assert len(train.ids) == round(0.3 * 121) and train.train.all() and not test.train.any()
    both = [tuple(r) for r in [*train.ids[:, :2].tolist(), *test.ids[:, :2].tolist()]]
    assert sorted(both) == sorted(itertools.product(range(11), repeat=2))


def test_the_split_of_modular_mixes_rows_and_columns():
    world = modular()
    split = world.split.double()
    spread = math.sqrt(world.share * (1 - world.share) / world.p)
    for lines in (split.mean(0), split.mean(1)):
        assert all(abs(float(m) - world.share) < 5 * spread for m in lines)


@pytest.mark.parametrize("name", ALL)
def test_the_table_is_composition_and_a_group(name):
    world = groups(name)
    ps, truth = list(world.elements.values()), world.truth
    table, inverse = truth.table.tolist(), truth.inverse.tolist()
    assert ps == sorted(set(ps)) and len(ps) == world.order
    for a, b in itertools.product(range(world.order), repeat=2):
        c = table[a][b]
        assert all(ps[c][x] == ps[a][ps[b][x]] for x in range(len(ps[0])))
    everything = range(world.order)
    assert all(
        table[0][a] == a == table[a][0] and table[a][inverse[a]] == 0 == table[inverse[a]][a] for a in everything
    )
    conjugate = [{table[table[x][a]][inverse[x]] for x in everything} for a in everything]
    classes = truth.conjugacy.tolist()
    assert all((classes[a] == classes[b]) == (b in conjugate[a]) for a in everything for b in everything)


def test_textbook_products():
    def times(group, a, b):
        world = groups(group)
        names = list(world.elements)
        return names[int(world.truth.table[names.index(a), names.index(b)])]

    assert times("S3", "(12)", "(23)") == "(123)"  # right to left: 3 to 2 to 1, 1 to 2, 2 to 3
    assert times("S3", "(23)", "(12)") == "(132)"
    assert times("S4", "(1234)", "(1234)") == "(13)(24)"
    assert times("C7", "r5", "r4") == "r2"
    assert (times("D4", "r1", "s0"), times("D4", "s0", "r1"), times("D4", "s1", "s1")) == ("s1", "s3", "r0")
    quaternions = {
        ("i", "j"): "k",
        ("j", "k"): "i",
        ("k", "i"): "j",
        ("j", "i"): "-k",
        ("i", "i"): "-1",
        ("-k", "k"): "1",
    }
    assert {pair: times("Q8", *pair) for pair in quaternions} == quaternions


@pytest.mark.parametrize("name", ALL)
def test_irreducible_representations_are_what_they_claim(name):
    truth = groups(name).truth
    n = len(truth.table)
    norms = {REAL: 1, COMPLEX: 2, QUATERNIONIC: 4}
    for r in truth.irreps:
        d = r.matrices.shape[-1]
        assert r.matrices.dtype == torch.float64
        left = torch.einsum("aij,bjk->abik", r.matrices, r.matrices)
        torch.testing.assert_close(left, r.matrices[truth.table], atol=1e-9, rtol=0)
        eye = torch.eye(d, dtype=torch.float64).expand(n, d, d)
        torch.testing.assert_close(r.matrices @ r.matrices.mT, eye, atol=1e-9, rtol=0)
        torch.testing.assert_close(r.character, r.matrices.diagonal(dim1=1, dim2=2).sum(-1))
        for c in truth.conjugacy.unique():
            values = r.character[truth.conjugacy == c]
            torch.testing.assert_close(values, values[:1].expand_as(values), atol=1e-9, rtol=0)
    characters = torch.stack([r.character for r in truth.irreps])
    wanted = torch.diag(torch.tensor([norms[r.kind] for r in truth.irreps], dtype=torch.float64))
    torch.testing.assert_close(characters @ characters.T / n, wanted, atol=1e-9, rtol=0)
    dims = [d for r in truth.irreps for d in r.over_complex]
    assert sum(d * d for d in dims) == n and len(dims) == int(truth.conjugacy.max()) + 1
    assert (truth.irreps[0].character - 1).abs().max() < 1e-9
    # Frobenius and Schur tell the kinds apart without the norm: the mean of chi(g g)
    squares = truth.table.diagonal()
    sign = {REAL: 1, COMPLEX: 0, QUATERNIONIC: -2}
    for r in truth.irreps:
        assert float(r.character[squares].mean()) == pytest.approx(sign[r.kind], abs=1e-9)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_dimensions_and_rank_bounds_are_those_of_the_books(name):
    truth = groups(name).truth
    irreps, classes, rank = KNOWN[name]
    assert [(r.matrices.shape[-1], r.kind) for r in truth.irreps] == irreps
    assert int(truth.conjugacy.max()) + 1 == classes
    assert truth.rank == rank


def strassen():
    """Seven products that multiply 2 x 2 matrices: factors (7, 2, 2) of the first, the second and the result."""
    e = torch.eye(4, dtype=torch.float64).view(2, 2, 2, 2)
    (a, b), (c, d) = e
    first = [a + d, c + d, a, d, a + b, c - a, b - d]
    second = [a + d, a, b - d, c - a, d, a + b, c + d]
    result = [a + d, c - d, b + d, a + c, b - a, d, a]
    return (torch.stack(x) for x in (first, second, result))


@pytest.mark.parametrize(("name", "rank"), [("S3", 9), ("D4", 11)])
def test_the_upper_bound_is_reached_by_rank_one_terms(name, rank):
    """The tensor as a sum over representations of d / n trace(R(a) R(b) R(c)^T), each multiplied as Strassen does."""
    world = groups(name)
    n, terms = world.order, []
    for r in world.truth.irreps:
        d, m = r.matrices.shape[-1], r.matrices
        first, second, result = (torch.ones(1, 1, 1, dtype=m.dtype),) * 3 if d == 1 else strassen()
        for u, v, w in zip(first, second, result, strict=True):
            factors = ((u * m).sum((1, 2)), (v * m).sum((1, 2)), (w * m).sum((1, 2)) * d / n)
            terms.append(torch.einsum("a,b,c->abc", *factors))
    assert len(terms) == rank == world.truth.rank[1]
    torch.testing.assert_close(sum(terms), world.tensor.double(), atol=1e-9, rtol=0)
    for flat in (world.tensor.flatten(1), world.tensor.transpose(0, 1).flatten(1)):
        assert int(torch.linalg.matrix_rank(flat)) == n <= world.truth.rank[0]


def test_words_agree_with_plain_composition():
    world = groups(group="S4", length=5)
    ps = list(world.elements.values())
    ids, prefix, product = (f.tolist() for f in world.sample(N, 4))
    for row, partial, c in zip(ids, prefix, product, strict=True):
        assert row[-1] == 24 and len(row) == 6
        so_far = (0, 1, 2, 3)
        for x, seen in zip(row[:-1], partial, strict=True):
            so_far = tuple(so_far[ps[x][y]] for y in range(4))
            assert ps[seen] == so_far
        assert c == partial[-1]
    for place in range(5):
        assert all(within(sum(row[place] == x for row in ids), N, 1 / 24) for x in range(24))
    assert all(within(product.count(x), N, 1 / 24) for x in range(24))


def test_the_two_sides_of_a_split_are_all_words_once():
    world = groups(group="S3", length=3, share=0.25)
    train, test = world.words(True), world.words(False)
    assert len(train.ids) == round(0.25 * 216)
    sides = [[tuple(r[:-1]) for r in words.ids.tolist()] for words in (train, test)]
    for side, marked in zip(sides, (world.split, ~world.split), strict=True):  # words in the order of their elements
        assert side == [w for w, yes in zip(itertools.product(range(6), repeat=3), marked.tolist(), strict=True) if yes]
    assert len(groups(group="S5", length=9).sample(5).ids) == 5
    with pytest.raises(ValueError, match="S5 has .* words of length 9"):
        _ = groups(group="S5", length=9).split


class Memory(torch.nn.Module):
    """Answers what it was shown, at the `=`; anything else by the last token there is, at every position."""

    def __init__(self, ids, answer, tokens):
        super().__init__()
        self.known, self.tokens = dict(zip(map(tuple, ids.tolist()), answer.tolist(), strict=True)), tokens

    def forward(self, input_ids):
        said = torch.full_like(input_ids, self.tokens - 2)
        said[:, -1] = torch.tensor([self.known.get(tuple(row), self.tokens - 2) for row in input_ids.tolist()])
        return type("Out", (), {"logits": torch.nn.functional.one_hot(said, self.tokens).float()})


@pytest.mark.parametrize(
    ("world", "side", "task"), [(g.WORLD, "words", g.TASKS["groups"]), (m.WORLD, "pairs", m.TASKS["modular"])]
)
def test_training_sees_one_side_of_the_split_and_the_score_is_of_the_other(world, side, task):
    train, test = (getattr(world, side)(t) for t in (True, False))
    assert torch.equal(task.batch(0, 7).ids, train.ids)
    n, tokens = len(test.ids), int(test.ids.max()) + 1
    right, wrong = test[2 if side == "words" else 1], train[2 if side == "words" else 1]
    (learnt,) = task.quality(Memory(train.ids, wrong, tokens), HELD_OUT)
    assert learnt.value * n == pytest.approx(int((right == tokens - 2).sum())), "of what was trained nothing is asked"
    (all_,) = task.quality(Memory(test.ids, right, tokens), HELD_OUT)
    assert all_.value == 1 and all_.n == n and all_.chance == 1 / (tokens - 1)


def test_bad_arguments_are_refused():
    for name in ("S6", "S1", "A2", "Q4", "C1", "D2", "D61", "Z7", "S", "s3", "S03", "S3 "):
        with pytest.raises(ValueError, match="there is no group"):
            groups(name)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="length must be"):
            groups(share=share)
        with pytest.raises(ValueError, match="p must be"):
            modular(share=share)
    with pytest.raises(ValueError, match="length must be"):
        groups(length=0)
    with pytest.raises(ValueError, match="p must be"):
        modular(1)
