"""The frontier's pieces at toy size: parts by document, rates by the rule, resumed rows, places only where apart."""

import importlib
import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from workbench.batch import Tokens
from workbench.dictionary import recipe
from workbench.harvest import collect
from workbench.testbeds import subject

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
frontier = importlib.import_module("frontier")

PLAN = frontier.Plan(
    site="0.resid", rows=3000, latents=64, size=64, steps=6, tuning_steps=3, seeds=2, check=128, texts=4
)
TWO = {"topk_auxk": ("k", (2, 4, 8)), "relu_l1": ("l1", (8.0, 4.0, 2.0))}


@pytest.fixture(scope="module")
def model():
    return subject("tiny_text_gelu")


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    ids = torch.randint(2, 2048, (40, 128), generator=torch.Generator().manual_seed(0))
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    return collect(model, tokens, "0.resid", rows=3000, folder=tmp_path_factory.mktemp("store"), quiet=True)


@pytest.fixture
def toy(model, store, monkeypatch):
    """The toy's ground and two variants in the places of the real ones; gives the number of jobs worked on."""
    ground, worked, work = frontier.parted(model, store, PLAN), [], frontier.work
    monkeypatch.setattr(frontier, "VARIANTS", TWO)
    monkeypatch.setattr(frontier, "ground", lambda plan: ground)
    monkeypatch.setattr(frontier, "work", lambda plan, job: (worked.append(job), work(plan, job))[1])
    return worked


def run(jobs, log):
    with ThreadPoolExecutor(1) as pool:
        return frontier.go_on(PLAN, jobs, log, pool)


def test_no_document_is_in_two_parts(model, store):
    g = frontier.parted(model, store, PLAN)
    train, test = set(g.train.texts.tolist()), set(g.test.texts.tolist())
    assert g.check.shape == (PLAN.check, 128) and not train & test and set(g.documents.tolist()) <= test
    rows = store.gather(torch.arange(store.rows), "0.resid")
    text, _ = store.where(torch.arange(store.rows))
    whose = [int(store.texts[text[(rows == x).all(1).nonzero()[0, 0]]]) for x in g.check[:: PLAN.check // 8]]
    assert not set(whose) & (train | test)


def test_a_killed_run_goes_on_and_ends_alike(toy, tmp_path):
    log = tmp_path / "rows.jsonl"
    tuned = run(frontier.tunings(), log)
    assert len(tuned) == 2 * 3 and {row["seed"] for row in tuned} == {frontier.TUNING}
    jobs = frontier.finals(PLAN, frontier.chosen(tuned))
    rows = run(jobs, log)
    assert len(rows) == 2 * 3 * 2 and all(math.isfinite(row[key]) for row in rows for key in ("fvu", "delta_ce", "l0"))
    assert {row["seed"] for row in rows} == {0, 1}
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote
    toy.clear()
    again = run(jobs, log)
    assert len(toy) == 1
    whole = {frontier.identity(row): row["fvu"] for row in rows}
    assert {frontier.identity(row): row["fvu"] for row in again} == whole
    assert set(map(frontier.identity, map(json.loads, log.read_text().splitlines()))) >= set(whole)


def test_a_rate_that_diverges_is_not_chosen(toy, monkeypatch):
    monkeypatch.setattr(frontier, "RATES", (1e-3, 1e30))
    rows = [row for job in frontier.tunings() for row in frontier.work(PLAN, job)]
    assert {row["loss"] is None for row in rows if row["rate"] == 1e30} == {True}
    assert frontier.chosen(rows) == {"topk_auxk": 1e-3, "relu_l1": 1e-3}
    with pytest.raises(ValueError, match="relu_l1 diverged at every rate"):
        frontier.chosen([row for row in rows if row["variant"] == "topk_auxk"])


def test_a_rate_is_judged_by_the_loss_that_the_variant_minimises(model, store):
    x, made = frontier.parted(model, store, PLAN).check, recipe("relu_l1", d=128, latents=64, l1=3.0)
    made.dictionary.freeze()
    z = made.dictionary.encode(x).to_dense()
    error = (x - made.dictionary.reconstruct(x)).square().sum() / len(x)
    penalty = 3.0 * (z * made.dictionary.decoder.weight.norm(dim=-1)).sum() / len(x)
    variance = x.var(0, correction=0).sum()
    assert frontier.loss(made, x) == pytest.approx(((error + penalty) / variance).item(), rel=1e-4)


def made(variant, value, rate, l0, fvu, seed=0, rise=1.0):
    found = {"variant": variant, "value": value, "rate": rate, "seed": seed, "l0": l0, "fvu": fvu, "delta_ce": rise}
    return found | {"dead": 0.0, "seconds": 1.0}


def test_values_between_points_by_hand():
    points = [(4.0, 3.0), (1.0, 1.0), (16.0, 7.0)]
    assert [frontier.between(l0, points) for l0 in (1.0, 2.0, 8.0)] == pytest.approx([1.0, 2.0, 5.0])


def test_overlapping_intervals_share_a_place(monkeypatch):
    monkeypatch.setattr(frontier, "VARIANTS", dict.fromkeys("abcd", ("k", (2, 4, 8))))

    def seeds(name, low, high, top=8):
        ends = ((0, low), (1, high))
        l0s = ((2, 2), (4, 4), (8, top))
        return [made(name, k, 0.1, l0, fvu / l0, seed, fvu) for k, l0 in l0s for seed, fvu in ends]

    rows = seeds("a", 1.00, 1.01) + seeds("b", 1.02, 1.03) + seeds("c", 2.00, 2.01) + seeds("d", 1, 1, top=3)
    found = {row["variant"]: row for row in frontier.matched(rows, 4)}
    assert found["a"]["FVU"] == pytest.approx(1.005 / 4) and found["c"]["rise in nats"] == pytest.approx(2.005)
    assert [found[name]["place by FVU"] for name in "abcd"] == [1, 1, 4, 1]
    assert "FVU" not in {row["variant"]: row for row in frontier.matched(rows, 5)}["d"]
    table = frontier.table(rows)
    assert len(table) == 12 and table[0]["FVU"] == pytest.approx(1.005 / 2) and table[0]["seeds"] == 2
