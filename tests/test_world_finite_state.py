"""The machine's walks and labels against plain loops over the rules, and its chances against their limits."""

import math

import pytest
import torch

from workbench.testbeds.core import HELD_OUT
from workbench.testbeds.worlds.finite_state import TASKS, finite_state

N = 10_000


@pytest.fixture(scope="module")
def world():
    return finite_state()


@pytest.fixture(scope="module")
def walks(world):
    return world.sample(N, 5)


@pytest.fixture(scope="module")
def successors(world):
    return [[t for t in range(100) if world.truth.allowed[s, t]] for s in range(100)]


def within(count, n, p):
    """Binomial, 4 sigma: one false alarm in 16,000."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_every_state_has_ten_successors_and_two_digits(world, successors):
    assert all(len(s) == 10 for s in successors)
    allowed, probability, digits = world.truth
    assert probability.tolist() == [[pytest.approx(0.1) if yes else 0 for yes in row] for row in allowed.tolist()]
    assert digits.tolist() == [[int(c) for c in f"{s:02d}"] for s in range(100)]


def test_labels_agree_with_plain_loops_over_the_rules(walks, successors):
    def permitted(before, digit):
        """Tokens after a state (None: no state yet) and, if one is open, the first digit of the next."""
        spelled = [f"{s:02d}" for s in (range(100) if before is None else successors[before])]
        tokens = {int(s[0]) for s in spelled} if digit is None else {int(s[1]) for s in spelled if int(s[0]) == digit}
        return [t in tokens for t in range(11)]

    table = {(b, d): permitted(b, d) for b in [None, *range(100)] for d in [None, *range(10)]}
    for ids, walk, state, allowed in zip(*(f.tolist() for f in walks), strict=True):
        assert ids == [10] + [int(c) for s in walk for c in f"{s:02d}"]
        now, digit = None, None
        for pos, token in enumerate(ids):
            if pos % 2:
                digit = token
            elif pos:
                new = 10 * ids[pos - 1] + token
                assert now is None or new in successors[now]
                now, digit = new, None
            assert state[pos] == (-1 if now is None else now)
            assert allowed[pos] == table[now, digit]
            assert pos + 1 == len(ids) or allowed[pos][ids[pos + 1]]


def test_first_states_and_edges_are_uniform(walks, successors):
    first, later = [0] * 100, [0] * 10
    for walk in walks.walk.tolist():
        first[walk[0]] += 1
        for a, b in zip(walk, walk[1:], strict=False):
            later[successors[a].index(b)] += 1
    assert all(within(c, N, 1 / 100) for c in first)
    assert all(within(c, N * 31, 1 / 10) for c in later)


def test_states_are_visited_as_often_as_the_chain_says(world, walks):
    chance = torch.full((100,), 0.01, dtype=torch.float64)
    for t in range(32):
        seen = torch.bincount(walks.walk[:, t], minlength=100)
        assert all(within(int(c), N, float(p)) for c, p in zip(seen, chance, strict=True) if p > 0)
        assert not seen[chance == 0].any()
        chance = chance @ world.truth.probability.double()


def test_another_seed_is_another_machine_and_other_sizes_hold():
    assert not torch.equal(finite_state(machine=1).truth.allowed, finite_state().truth.allowed)
    big = finite_state(states=300, edges=3, base=20, steps=5)
    walks = big.sample(50)
    assert walks.ids.shape == (50, 11) and walks.allowed.shape == (50, 11, 21)
    high, low = walks.ids[:, 1::2], walks.ids[:, 2::2]
    assert torch.equal(20 * high + low, walks.walk) and int(walks.walk.max()) < 300
    assert walks.allowed[:, :-1].gather(2, walks.ids[:, 1:, None]).all()
    assert big.name(47) == "2.7"


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="base² .two digits., got 101 with base 10"):
        finite_state(states=101)
    with pytest.raises(ValueError, match="edges must be 1 to 100"):
        finite_state(edges=101)
    with pytest.raises(ValueError, match="steps 1 or more"):
        finite_state(steps=0)


def test_the_score_is_the_share_of_allowed_transitions_a_model_draws(world):
    """Models of known skill: the machine itself, and one that knows the digits but no state."""
    quality = TASKS["finite_state"].quality

    class Oracle(torch.nn.Module):
        def __init__(self, machine, until=32):
            super().__init__()
            self.until = until  # states; what follows later ones it does not know
            p = machine.truth.probability.view(100, 10, 10)
            self.first = torch.cat([p.sum(2), torch.zeros(100, 1)], 1)
            self.second = torch.cat([p, torch.zeros(100, 10, 1)], 2)

        def forward(self, input_ids):
            logits = torch.zeros(*input_ids.shape, 11)
            state = 10 * input_ids[:, 1::2] + input_ids[:, 2::2]
            logits[:, 2::2] = self.first[state].log()
            known = self.second[state[:, :-1], input_ids[:, 3::2]]
            logits[:, 3::2] = torch.where(known.sum(-1, keepdim=True) > 0, known, 0.1).log()
            logits[:, 2 * self.until + 2 :] = torch.tensor([0.0] * 10 + [-torch.inf])
            return type("Out", (), {"logits": logits})

    (right,) = quality(Oracle(world), HELD_OUT)
    assert right.value == 1.0
    (other,) = quality(Oracle(finite_state(machine=1)), HELD_OUT)
    both = world.truth.allowed & finite_state(machine=1).truth.allowed
    assert within(other.value * other.n, other.n, int(both.sum()) / 1000)
    assert other.chance == 0.1
    # the step is uniform over 31: 8 of them are known, of all states a tenth may follow by luck
    (early,) = quality(Oracle(world, until=8), HELD_OUT)
    assert within(early.value * early.n, early.n, (8 + 0.1 * 23) / 31)


def test_there_are_far_more_states_than_neurons(world):
    neurons = [len(v) for k, v in TASKS["finite_state"].build(0).state_dict().items() if k.endswith("c_fc.bias")]
    assert neurons and 2 * max(neurons) < world.states
