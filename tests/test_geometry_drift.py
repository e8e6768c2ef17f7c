"""Progress and drift are what brute force says, planted formation is seen, and shuffled rows stay where they are."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from workbench import geometry, testbeds
from workbench.code import Code
from workbench.geometry.drift import drift, formation, mean_directions, tops


def drawn(n: int, d: int = 32, seed: int = 0) -> torch.Tensor:
    return geometry.random_directions(n, d, seed=seed)


def world(n: int = 1000, latents: int = 20, early: int = 10, seed: int = 0):
    """Rows of three checkpoints: nothing; the first `early` latents; all. Each has 40 rows of its own direction."""
    rng = torch.Generator().manual_seed(seed)
    own = torch.randperm(n, generator=rng)[: latents * 40].view(latents, 40)
    directions, states = drawn(latents, seed=seed), {}
    for step, formed in (("0", 0), ("1", early), ("2", latents)):
        x = torch.randn(n, 32, generator=rng) / 32**0.5
        for latent in range(formed):
            x[own[latent]] += 2 * directions[latent]
        states[step] = x
    return states, own


def brute(rows: torch.Tensor, like) -> float:
    return float(np.mean([like(rows[i], rows[j]) for i, j in combinations(range(len(rows)), 2)]))


def test_tops_are_the_strongest_rows_strongest_first():
    z = torch.tensor([[3.0, 0.0, 1.0], [1.0, 0.0, 0.0], [2.0, 4.0, 0.0], [5.0, 0.0, 1.0]])
    for code in (Code.dense(z), Code.dense(z).to_csr()):
        found = tops(code, 2)
        assert found.latents.tolist() == [0, 2] and found.rows.tolist() == [[3, 0], [0, 3]]
    assert tops(Code.dense(z), 4).rows.tolist() == [[3, 0, 2, 1]]


def test_progress_is_brute_forces_less_that_of_random_rows():
    states, own = world(200, 4, 2)
    for center in (False, True):
        found = formation(states, own[:, :7], center=center, random=30)
        for step, x in enumerate(states.values()):
            x = x - x.mean(0) if center else x
            for latent in range(4):
                want = brute(x[own[latent, :7]], lambda a, b: float(cosine_similarity(a, b, 0)))
                assert float(found.progress[step, latent] + found.random[step]) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("by", ["cosine", "jaccard", "weighted"])
def test_likeness_of_codes_is_brute_forces(by):
    rng = torch.Generator().manual_seed(0)
    z = torch.rand(60, 15, generator=rng) * (torch.rand(60, 15, generator=rng) < 0.3)
    z[:3] = 0  # rows with nothing on are like none
    like = {
        "cosine": lambda a, b: float(cosine_similarity(a, b, 0)),
        "jaccard": lambda a, b: float(((a > 0) & (b > 0)).sum()) / max(float(((a > 0) | (b > 0)).sum()), 1),
        "weighted": lambda a, b: float(torch.minimum(a, b).sum()) / max(float(torch.maximum(a, b).sum()), 1e-9),
    }[by]
    rows = torch.stack([torch.randperm(60, generator=rng)[:6] for _ in range(5)])
    rows[0, :4] = torch.arange(4)
    found = formation({"a": Code.dense(z), "b": Code.dense(z).to_csr()}, rows, by=by, random=20, draws=2)
    for latent in range(5):
        want = brute(z[rows[latent]], like)
        for step in (0, 1):
            assert float(found.progress[step, latent] + found.random[step]) == pytest.approx(want, abs=1e-6)


def test_planted_formation_is_seen_at_its_checkpoint_and_shuffled_rows_stay_at_zero():
    states, own = world()
    found = formation(states, own[:, :25])
    mean = [found.progress[:, half].mean(1).tolist() for half in (slice(0, 10), slice(10, 20))]
    assert abs(mean[0][0]) < 0.02 and mean[0][1] > 0.6 and mean[0][2] > 0.6
    assert abs(mean[1][0]) < 0.02 and abs(mean[1][1]) < 0.1 and mean[1][2] > 0.6
    assert float(found.null.abs().max()) < 0.05
    assert found.formed().tolist() == [1] * 10 + [2] * 10
    table = found.table
    assert table.p[0] > 0.05 and table.p[2] == pytest.approx(1 / 21) and table.z[2] > 50
    assert table.progress.tolist() == pytest.approx(found.progress.mean(1).tolist())


def test_a_direction_all_rows_have_hides_formation_unless_centred():
    states, own = world()
    leaning = {step: x + 20 * drawn(1, seed=3) for step, x in states.items()}
    raw, centred = (formation(leaning, own[:, :25], center=c).table.progress[2] for c in (False, True))
    assert raw < 0.02 and centred > 0.6


def test_formed_is_from_where_on_it_stays():
    states, own = world()
    found = formation({"early": states["2"], **states}, own[:, :25])
    assert found.formed().tolist() == [2] * 10 + [3] * 10  # they were there at 0 and went again
    falling = formation(dict(reversed(states.items())), own[:, :25])
    assert set(falling.formed()[falling.progress[-1] <= 0].tolist()) <= {-1}


def test_kinds_by_the_share_of_the_commonest_token():
    states, own = world()
    states["2"][own[3]] = torch.randn(40, 32, generator=torch.Generator().manual_seed(5))
    found = formation(states, own[:, :10])
    tokens = torch.arange(1000)
    tokens[own[0]] = 7
    tokens[own[1, :8]] = 7
    tokens[own[2, :7]] = 7
    tokens[own[3]] = 7
    tokens[own[4, :4]] = 7
    tokens[own[5, :5]] = 7
    assert found.kinds(tokens)[:7] == ["token", "token", "weak", "unformed", "concept", "weak", "concept"]
    assert found.kinds(tokens, token=0.6, concept=0.5)[:6] == [
        "token",
        "token",
        "token",
        "unformed",
        "concept",
        "concept",
    ]


def test_progress_on_tiny_text_rises_to_a_plateau_while_shuffled_rows_stay():
    """Real checkpoints; stand-ins for latents that need no training: rows after a common token, and of that token."""
    ids, states = testbeds.world("tiny_text").sample(48, 0).ids[:, :64], {}
    for step in (0, 250, 750):
        (h,) = testbeds.subject("tiny_text_gelu", step=step).read(ids, ["1.resid"]).values()
        states[str(step)] = h[:, 1:].flatten(0, 1)
    tokens, before = ids[:, 1:].flatten(), ids[:, :-1].flatten()
    common = [int(t) for t in tokens.bincount().argsort(descending=True)[:40]]
    same = torch.stack([(tokens == t).nonzero()[:15, 0] for t in common if int((tokens == t).sum()) >= 15])
    after = [(before == t).nonzero()[:15, 0] for t in common if int((before == t).sum()) >= 15]
    rows = torch.cat([same, torch.stack(after)])
    found = formation(states, rows)
    token, context = (found.progress[:, part].mean(1) for part in (slice(0, len(same)), slice(len(same), None)))
    assert float(token[0]) > 0.3 > 0.1 > float(context[0])  # one embedding each: tokens are there before training
    assert float(token[-1]) > 0.5 and abs(float(token[-1] - token[-2])) < 0.1  # a plateau
    assert float(found.null.abs().max()) < 0.15
    kinds = found.kinds(tokens)
    assert {"token", "unformed"} >= set(kinds[: len(same)]) and kinds.count("token") > 0.8 * len(same)


def test_drift_by_hand():
    first, middle, last = torch.eye(2), torch.tensor([[0.0, 3.0], [0.0, 1.0]]), torch.tensor([[-2.0, 0.0], [0.0, 1.0]])
    found = drift({"a": first, "b": middle, "c": last})
    assert found.cosines.tolist() == [[-1, 1], [0, 1], [1, 1]]
    assert found.length.tolist() == pytest.approx([2 * 2**0.5, 0.0])
    assert found.table.move.tolist()[:2] == pytest.approx([2**0.5 / 2] * 2)
    assert found.null[:, 2].tolist() == [0.0] * 20  # two latents: the other one, always


def test_latents_that_turn_slowly_are_followed_and_others_are_at_chance():
    last, other = drawn(200), drawn(200, seed=1)
    way = {str(t): normalize((1 - t) * other + t * last, dim=1) for t in (0.0, 0.5, 1.0)}
    found = drift(way)
    assert found.cosines.mean(1).tolist() == pytest.approx([0, 0.5**0.5, 1], abs=0.03)
    assert (found.length >= (way["1.0"] - way["0.0"]).norm(dim=1) - 1e-6).all()
    assert (
        float(found.null.abs().max()) < 0.05 and found.table.p[2] == pytest.approx(1 / 21) and found.table.p[0] > 0.05
    )


def test_independent_dictionaries_are_matched_first_and_stand_beside_matched_random_directions():
    last = drawn(150)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    way = {"0": drawn(150, seed=5), "1": normalize(last[order] + 0.02, dim=1), "2": last}
    found, numbers = drift(way, matched=True), drift(way)
    assert float(found.cosines[1].min()) > 0.9 and abs(float(numbers.cosines[1].mean())) < 0.1
    assert float(found.cosines[0].mean()) == pytest.approx(float(found.null[:, 0].mean()), abs=0.03)
    assert float(found.null.mean()) > 0.3  # a matching finds likeness in anything
    fewer = drift({"0": last[:100], "1": last}, matched=True)
    assert fewer.cosines[0].isnan().sum() == 50 and fewer.table.partners[0] == pytest.approx(2 / 3)
    torch.testing.assert_close(fewer.cosines[0, :100], torch.ones(100).double())
    assert np.isfinite(fewer.table.cosine).all()


def test_mean_directions_are_means_of_rows():
    states, own = world(200, 4, 2)
    found = mean_directions(states, own)
    torch.testing.assert_close(found["2"][1], states["2"][own[1]].mean(0))
    assert drift(found).cosines[1, :2].min() > 0.9


def test_every_record_says_its_null_and_draws_it():
    states, own = world(200, 4, 2)
    found = formation(states, own)
    kinds = ["token", "weak", "concept", "concept"]
    for figure, caption, said in (
        (found.figure(), found.caption, "null: rows shuffled among latents, 95 %"),
        (found.figure(kinds), found.caption, "null: rows shuffled among latents, 95 %"),
        (drift({"0": drawn(5), "1": drawn(5, seed=1)}).figure(), found.caption, "null: other latents"),
        (drift({"0": drawn(5), "1": drawn(5)}, matched=True).figure(), "", "null: matched random directions"),
    ):
        assert said in {trace.name for trace in figure.data}
        assert "\n" not in caption and figure.layout.title.subtitle.text
    panels = [a.text for a in found.figure(kinds).layout.annotations]
    assert panels == ["token (1 latents)", "weak (1 latents)", "concept (2 latents)"]
    assert "Rows shuffled among latents" in found.caption


X = torch.eye(4)
ROWS = torch.tensor([[0, 1], [2, 3]])
TWO = {"a": X, "b": X}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tops(Code.dense(X), 2), "no latent is on in 2 of the 4 rows"),
        (lambda: tops(Code.dense(X), 1), "top must be 2 or more, got 1"),
        (lambda: formation({"a": X}, ROWS, random=2), "two checkpoints or more"),
        (lambda: formation({"a": X, "b": X[:3]}, ROWS, random=2), "of the same tokens"),
        (lambda: formation(TWO, ROWS + 1, random=2), r"rows must be two or more numbers 0\.\.3"),
        (lambda: formation(TWO, ROWS[:, :1], random=2), "rows must be two or more numbers"),
        (lambda: formation(TWO, ROWS, by="jaccard", random=2), "activations have a cosine only"),
        (lambda: formation(TWO, ROWS, by="dot", random=2), "by must be one of cosine, jaccard, weighted"),
        (lambda: formation(TWO, ROWS), r"random 2\.\.4, got 20 and 150"),
        (lambda: formation({"a": X, "b": X * torch.nan}, ROWS, random=2), "4 of 4 rows at b are not finite"),
        (
            lambda: formation(dict.fromkeys("ab", Code.dense(-X)), ROWS, by="weighted", random=2),
            "the code at a has signs",
        ),
        (lambda: formation(TWO, ROWS, random=2).formed(0.0), "share must be within"),
        (lambda: formation(TWO, ROWS, random=2).kinds(torch.arange(2)), "tokens must name every row up to 3, got 2"),
        (lambda: formation(TWO, ROWS, random=2).kinds(torch.arange(4), token=0.3), "concept below token"),
        (lambda: formation(TWO, ROWS, random=2).figure(["token"]), "name each of 2 latents, got 1"),
        (lambda: formation(TWO, ROWS, random=2).figure(["token", "big"]), "kinds are .* got big"),
        (lambda: drift({"a": X}), "two checkpoints or more of one width"),
        (lambda: drift({"a": X, "b": X[:3]}), "or matched=True"),
        (lambda: drift({"a": X, "b": torch.eye(5)}, matched=True), "of one width"),
        (lambda: drift({"a": X, "b": 0 * X}), "4 of 4 atoms at b are zero"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
