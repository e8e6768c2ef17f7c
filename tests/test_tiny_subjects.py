"""The suite of tiny subjects: as good as their cards say, trained again, through the doors."""

from dataclasses import replace
from statistics import mean

import pytest
import torch

import workbench as wb
from workbench import evaluate, testbeds
from workbench.testbeds import subjects
from workbench.testbeds.core import HELD_OUT, Quality, Task, fit
from workbench.testbeds.indexed import Indexed

NAMES = testbeds.subject_names()
SHORT = {"digits_vit": 40, "groups": 40, "modular": 40, "induction": 20}  # steps that show; 10 for the others
MOST = 8_000_000
ALL = 30_000_000
KEPT = [(n, s) for n in NAMES for s in subjects.task(n).seeds]


@pytest.mark.parametrize(("name", "seed"), KEPT)
def test_the_committed_weights_meet_their_goals_and_their_card(name, seed):
    card = testbeds.card(name, seed)
    assert {"data", "command", "seed", "steps", "cpu_seconds", "licence", "quality", "machine"} <= card.keys()
    now = subjects.qualities(name, seed)
    assert [q.metric for q in now] == [q["metric"] for q in card["quality"]]
    for q, written in zip(now, card["quality"], strict=True):
        assert q.met, f"{q.metric} is {q.value:.4f}, the goal {q.goal}"
        assert q.low <= q.value <= q.high
        assert q.low > q.chance if q.higher else q.high < q.chance, "no better than chance"
        assert abs(q.value - written["value"]) <= 1e-3 * max(1, abs(q.value)), "the card speaks of other weights"


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_was_to_be_kept_is_there(name):
    task = subjects.task(name)
    stems = [subjects.stem(name, s) for s in task.seeds] + [subjects.stem(name, 0, k) for k in task.keep]
    for stem in stems:
        assert (subjects.FOLDER / f"{stem}.safetensors").is_file(), stem


def test_the_committed_weights_are_small_and_nothing_else_lies_there():
    files = {p.name: p.stat().st_size for p in subjects.FOLDER.glob("*.safetensors")}
    assert max(files.values()) <= MOST
    assert sum(files.values()) <= ALL
    known = {subjects.stem(n, s) for n, s in KEPT}
    known |= {subjects.stem(n, 0, k) for n in NAMES for k in subjects.task(n).keep}
    assert {f.removesuffix(".safetensors") for f in files} == known


@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_points_the_right_way(name):
    task = subjects.task(name)
    begun = task.build(1).eval()
    model = fit(replace(task, steps=SHORT.get(name, 10), keep=()), 1, progress=False)
    assert held_out(task, model) < 0.97 * held_out(task, begun)


@torch.no_grad()
def held_out(task, model):
    """The loss on a batch of the training stream that a short run has not reached."""
    return float(task.loss(model, task.batch(HELD_OUT - 1, 0)))


@pytest.mark.parametrize("name", NAMES)
def test_from_subject_to_scores(name, tmp_path):
    subject = testbeds.subject(name)
    assert name in subject.name and subject.note
    site = wb.Site.of(subjects.task(name).site)
    inputs = subjects.task(name).inputs(192)
    h = subject.read(inputs, [site])[site]
    assert h.isfinite().all() and float(h.std()) > 0
    clean = subject.run(inputs).logits
    pushed = subject.run(inputs, {site: wb.edit.add(h.flatten(0, 1).std(0) * 3).everywhere()}).logits
    assert not torch.allclose(clean, pushed, atol=1e-3)
    same = subject.run(inputs, {site: wb.edit.add(torch.zeros(h.shape[-1])).everywhere()}).logits
    torch.testing.assert_close(same, clean, rtol=0, atol=1e-4)
    if subject.vocab is not None and inputs.shape[1] > 4:
        new = subject.generate(inputs[:2, :3], new=2)
        assert new.logprobs.shape[1] <= 2 and len(new.texts) == 2
    d = h.shape[-1]
    reader, source = subject, wb.Tokens(inputs, torch.ones_like(inputs, dtype=torch.bool))
    if subject.vocab is None:
        reader = Indexed(subject, inputs, site)
        source = reader.tokens
    store = wb.collect(reader, source, [site], rows=None, folder=tmp_path / "store", batch=32, quiet=True)
    train, test = store.split(by="text", test=0.25)
    stream = train.stream(min(128, len(train) // 2), site=site, steps=40)
    recipes = [wb.recipe("batch_topk", d=d, latents=2 * d, k=8), wb.recipe("random_atoms", d=d, latents=2 * d, k=8)]
    options = {"exclusion": store.exclusion, "subject_fingerprint": reader.fingerprint, "progress": False, "lr": 5e-3}
    sae, chance = wb.train(recipes, stream, site=site, **options)
    scores = evaluate.run({"sae": sae, "chance": chance}, ["reconstruction"], rows=test)
    fvu = scores[scores["metric"] == "fvu"].set_index("dictionary")["value"]
    assert fvu["sae"] < fvu["chance"] < 2


def test_a_task_that_misses_its_goal_keeps_its_weights_and_says_so(tmp_path, monkeypatch):
    def quality(model, seed):
        return [Quality.share("hits", 1, 10, chance=0.0, goal=0.9)]

    task = Task(
        build=lambda seed: torch.nn.Linear(3, 3),
        batch=lambda seed, step: torch.ones(4, 3),
        loss=lambda model, x: model(x).square().mean(),
        quality=quality, steps=5, data="ones", keep=(0, 5), site="0:out", inputs=lambda n: torch.ones(n, 3),
    )  # fmt: skip
    monkeypatch.setattr(subjects, "_tasks", lambda: {"toy": task})
    with pytest.raises(ValueError, match="hits 0.1000, goal 0.9"):
        subjects.make("toy", folder=tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "toy.missed.json", "toy.missed.safetensors", "toy.step0.safetensors", "toy.step5.safetensors"
    ]  # fmt: skip


def test_a_training_of_so_many_seconds_ends_before_its_steps():
    task, steps = subjects.task("digits_relu"), []
    before = held_out(task, task.build(1).eval())  # first, for it reads the data
    model = fit(task, 1, seconds=1, progress=False, on_step=lambda step, _: steps.append(step))
    assert 5 < len(steps) < task.steps
    assert held_out(task, model) < before


def test_training_again_gives_the_same_weights():
    short = replace(subjects.task("modular"), steps=5)
    a, b = (fit(short, 3, progress=False).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    other = fit(short, 4, progress=False).state_dict()
    assert any(not torch.equal(a[k], other[k]) for k in a)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="there are .*modular"):
        testbeds.subject("no_such")
    with pytest.raises(ValueError, match="no weights for seed 77"):
        testbeds.subject("modular", seed=77)
    with pytest.raises(ValueError, match="choose from .*modular"):
        testbeds.world("no_such")
    with pytest.raises(TypeError, match="modular"):
        testbeds.world("modular", q=5)


def test_intervals_by_hand():
    q = Quality.share("x", 50, 100, chance=0.1, goal=0.6)
    assert q.value == 0.5 and not q.met
    assert (round(q.low, 4), round(q.high, 4)) == (0.4038, 0.5962)  # Wilson, as tabled
    m = Quality.mean("y", torch.tensor([1.0, 2.0, 3.0]), chance=5.0, goal=2.5, unit="nats")
    assert m.met and m.value == 2.0
    assert round(m.high - m.low, 4) == round(2 * 1.959964 / 3**0.5, 4)
    assert mean([m.low, m.high]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="0..n"):
        Quality.share("x", 11, 10, chance=0, goal=1)
