"""The harness beside peer libraries: fair turns, steps timed whole, pinned peers, a page of what was measured."""

import importlib
import re
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
record, train_step, install, feed = map(
    importlib.import_module, ("record", "train_step", "peers.install", "peers.feed")
)
JOB = feed.Job("", rows=4, latents=8, d=2, k=2, steps=100)


def test_the_page_of_benchmarks_is_what_the_measurements_say():
    assert record.BENCHMARKS.read_text() == record.benchmarks(), "run `python bench/record.py` and commit docs/"


def test_peers_are_pinned_on_our_torch_and_name_no_registry():
    torch_pin = re.search(r"^torch==.+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = {"sae_lens": "6.54.12", "dictionary_learning": "0.1.0", "sparsify": "1.3.3", "overcomplete": "0.3.0"}
    assert set(install.NAMES) == set(wanted)
    others = {"circuit_tracer": "circuit-tracer==0.5.0", "llamascopium": "llamascopium==2.0.0b34"}
    freezes = [install.freeze(name) for name in (*wanted, *others)]
    assert all(line in install.freeze(name).read_text().splitlines() for name, line in others.items())
    for freeze in freezes:
        lines = freeze.read_text().splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), freeze.name
        assert torch_pin is not None and torch_pin[0] in lines
    for name, version in wanted.items():
        assert train_step.version({"sae_lens": "SAELens"}.get(name, name)).endswith(f"=={version}")


def test_a_peer_without_its_environment_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"run `python bench/peers/install.py sparsify`"):
        install.python("sparsify")


def test_a_step_is_the_time_from_a_batch_to_the_wish_for_the_next():
    x = torch.arange(16.0).reshape(8, 2)
    walls, asked = [], iter([2, 1])

    def wanted() -> int:
        time.sleep(0.05)  # the driver's own pause counts for nobody
        if steps := next(asked, 0):
            return steps
        raise feed.Over

    given = feed.Feed(JOB, x, wanted, lambda wall, cpu: walls.append(wall))
    assert len(list(given.plain())) == feed.PLAIN and not walls
    seen = []
    with pytest.raises(feed.Over):
        for batch in given:
            seen.append(batch.clone())
            batch.zero_()  # a library may write into its batch
            time.sleep(0.01)
    assert len(walls) == 3 and all(0.01 <= wall < 0.05 for wall in walls)
    assert torch.equal(torch.stack(seen), torch.stack([x[:4], x[4:], x[:4]]))


def test_the_shared_schedule_warms_up_stays_and_ends_at_zero():
    assert [JOB.rate(step) for step in (0, 1, 2, 80, 90, 100)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_runners_take_turns_forwards_and_backwards():
    asked = []

    class Fake:
        def __init__(self, name: str):
            self.name = name

        def ask(self, *, steps: int) -> dict[str, list[float]]:
            asked.append(self.name)
            return {"wall": [float(len(asked))] * steps}

    found = train_step.turns([Fake("a"), Fake("b"), Fake("c")], 2, 1)
    assert "".join(asked) == "abccba"
    assert [[answer["wall"][0] for answer in own] for own in found] == [[1, 6], [2, 5], [3, 4]]


def test_ratios_are_of_medians_over_all_steps():
    answers = [{"wall": [1.0, 2.0], "cpu": [4.0, 4.0], "above": 1e6}, {"wall": [9.0], "cpu": [4.0], "above": 3e6}]
    assert train_step.summary(answers, 8) == {"ms": 2000.0, "tokens/s": 4.0, "tokens/CPU s": 2.0}
    assert train_step.peak(answers) == 3.0


def test_our_runner_trains_keeps_killed_latents_dead_and_is_scored_from_its_reconstructions(tmp_path):
    file = tmp_path / "rows.safetensors"
    train_step.write_rows(file, d=16, directions=32, rows=2048, held_out=512)
    job = feed.Job(str(file), rows=256, latents=64, d=16, k=4, steps=400, lr=3e-3, threads=1)
    x = load_file(file)["held_out"]
    with closing(train_step.Runner("sparse", job, tmp_path / "log")) as runner:

        def scored() -> tuple[float, torch.Tensor]:
            assert 0 < runner.ask(score=str(tmp_path / "s"))["l0"] <= 4
            found = load_file(tmp_path / "s")
            return float((found["x_hat"] - x).square().sum() / x.square().sum()), found["fired"]

        first = runner.ask(steps=1)
        assert len(first["wall"]) == len(first["cpu"]) == 1 and first["dead"] == 0
        before, _ = scored()
        assert len(runner.ask(steps=200)["wall"]) == 200
        after, fired = scored()
        assert after < 0.7 * before and len(fired) == 64
        assert runner.ask(kill=6) == {"dead": 6}
        assert runner.ask(steps=1)["dead"] == 6
        assert not scored()[1][-6:].any()
        with pytest.raises(RuntimeError, match=r"(?s)sparse ended at .* a request is one of"):
            runner.ask(dance=1)


def test_designs_beside_the_shipped_parts_give_the_same():
    """`compare` stops where one differs; the parts of a step add up to the step."""
    step_parts = importlib.import_module("step_parts")
    for what, designs in (("k", step_parts.selections(64, 256, 16, 4)), ("p", step_parts.projections(32, 16))):
        rows = step_parts.compare(what, designs, rounds=3)
        assert rows[0]["x shipped"] == 1.0 and len(rows) >= 3
    with pytest.raises(AssertionError):
        step_parts.compare("wrong", {"a": lambda: torch.ones(2), "b": lambda: torch.zeros(2)})
    found = step_parts.where((64, 256, 16, 4), steps=2)
    assert sum(row["share"] for row in found) == pytest.approx(1.0)
