"""The loop: what it promises of order, time, scale, stopping, resuming, and of telling what went wrong."""

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import Planted, fvu
from safetensors.torch import load_file

from workbench import lineage
from workbench.batch import Batch, Exclusion
from workbench.dictionary import Dictionary, Progress, Recipe, Term, load, losses, recipe, start, train, training
from workbench.dictionary.core import Hook

STREAM = Planted(d=12, atoms=20, on=2.5, rows=64, steps=30)
ARGS = {"d": 12, "latents": 32, "k": 3}


def run(stream=STREAM, made=None, **options):
    made = recipe("batch_topk", **ARGS) if made is None else made
    return train(made, stream, **{"site": "3.resid", "progress": False, "dead_after": 300, "lr": 1e-2} | options)


def weights(dictionary):
    return lineage.tensors_hash(dictionary.state_dict())


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Interrupted(Exception):
    pass


class Breaks(Planted):
    """The same stream, broken off before a step of its n-th reading (the first measures scales)."""

    def batches(self, start=0):
        self.readings.append(start)
        for step in range(start, self.steps):
            if step == self.at and len(self.readings) == self.reading:
                raise Interrupted
            yield self.batch(step)


def broken(at, reading=2):
    stream = Breaks(**{f: getattr(STREAM, f) for f in ("d", "atoms", "on", "rows", "steps")})
    vars(stream).update(at=at, reading=reading, readings=[])
    return stream


def test_the_same_call_gives_the_same_weights_whatever_the_global_seed_is():
    torch.manual_seed(1)
    first = weights(run())
    torch.manual_seed(2)
    assert weights(run()) == first
    assert weights(run(made=recipe("batch_topk", seed=1, **ARGS))) != first


@pytest.mark.parametrize("name", ["batch_topk", "jumprelu_target_l0", "relu_l1", "topk_auxk"])
@pytest.mark.parametrize("at", [1, 8, 17])
def test_a_broken_run_resumed_equals_the_unbroken_one_bit_for_bit(name, at, tmp_path):
    args = {"d": 12, "latents": 128} | ({"k": 1} if name != "relu_l1" else {})  # some latents fall silent
    options = {"checkpoint_every": 5, "log_every": 2, "dead_after": 400}
    whole = run(made=recipe(name, **args), folder=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        run(broken(at), recipe(name, **args), folder=tmp_path / "broken", **options)
    assert not (tmp_path / "broken" / "spec.json").exists()
    assert lineage.read_json(tmp_path / "broken" / "checkpoint" / "state.json")["step"] == at // 5 * 5
    resumed = run(made=recipe(name, **args), folder=tmp_path / "broken", **options)
    assert weights(resumed) == weights(whole)
    logs = [log(tmp_path / folder) for folder in ("whole", "broken")]
    assert [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in logs[0]] == [
        {k: v for k, v in row.items() if k != "tokens_per_second"} for row in logs[1]
    ]
    assert not (tmp_path / "broken" / "checkpoint").exists()
    assert name in ("relu_l1", "jumprelu_target_l0") or logs[0][-1]["dead"] > 0, "else the counters would not be tried"


def test_a_finished_run_is_loaded_not_repeated(tmp_path):
    first = run(folder=tmp_path)
    rows = []
    again = run(folder=tmp_path, on_row=rows.append)
    assert weights(again) == weights(first) and not rows
    assert run(folder=tmp_path, resume=False, on_row=rows.append) is not None and rows


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    run(folder=tmp_path)
    for change in (
        {"lr": 2e-2},
        {"seed": 3},
        {"made": recipe("topk_auxk", **ARGS)},
        {"scale": None},
        {"site": "4.resid"},
    ):
        with pytest.raises(ValueError, match="holds another run"):
            run(folder=tmp_path, **change)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        run(broken(9), folder=tmp_path, checkpoint_every=4)
    (path,) = (tmp_path / "checkpoint").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: delete"):
        run(folder=tmp_path)


def test_many_recipes_on_one_stream_equal_each_alone(tmp_path):
    makes = [lambda: recipe("batch_topk", **ARGS), lambda: recipe("relu_l1", d=12, latents=24, l1=0.5)]
    together = run(made=[make() for make in makes], lr=[1e-2, 3e-3], folder=tmp_path)
    alone = [run(made=make(), lr=lr) for make, lr in zip(makes, (1e-2, 3e-3), strict=True)]
    assert [weights(d) for d in together] == [weights(d) for d in alone]
    assert {p.name for p in tmp_path.iterdir()} == {"0_batch_topk", "1_relu_l1", ".lock"}
    assert weights(load(tmp_path / "1_relu_l1")) == weights(alone[1])
    assert {row["recipe"] for row in log(tmp_path / "0_batch_topk")} == {"0_batch_topk"}


def test_a_broken_sweep_resumes_all_its_recipes(tmp_path):
    def makes():
        return [recipe("batch_topk", **ARGS), recipe("pca", d=12, k=3), recipe("topk_auxk", **ARGS)]

    whole = run(made=makes())
    with pytest.raises(Interrupted):
        run(broken(9, reading=3), makes(), folder=tmp_path, checkpoint_every=4)
    assert [weights(d) for d in run(made=makes(), folder=tmp_path)] == [weights(d) for d in whole]


def test_a_coupled_term_trains_all_its_dictionaries():
    def alike(passes, dictionaries, at):
        return (passes[0].y_hat - passes[1].y_hat).square().sum(-1).mean()

    def makes():
        return [recipe("topk_auxk", seed=i, **ARGS) for i in range(2)]

    rows = []
    term = Term(alike, frozenset({"encoder", "decoder"}), weight=5.0)
    tied = run(made=makes(), coupled={"alike": term}, on_row=rows.append)
    free = run(made=makes())
    batch = STREAM.batch(999)
    apart = [float((a.reconstruct(batch.x) - b.reconstruct(batch.x)).square().sum()) for a, b in (tied, free)]
    assert apart[0] < 0.8 * apart[1], apart
    assert all("coupled/alike" in row for row in rows)
    none = run(made=makes(), coupled={"alike": replace(term, weight=0.0)})
    assert [weights(d) for d in none] == [weights(d) for d in free]


def test_scale_brings_the_median_norm_to_the_root_of_the_width():
    d = run(replace(STREAM, size=250.0))
    rows = torch.cat([batch.x for batch in replace(STREAM, size=250.0).batches()])
    assert math.isclose(float(d.scale_in) * float(rows.norm(dim=-1).median()), math.sqrt(12), rel_tol=1e-5)
    assert float(run(scale=None).scale_in) == 1.0 and float(run(scale=0.5).scale_out) == 0.5
    pair = run(replace(STREAM, kind="pair"), recipe("transcoder", d=12, latents=32, k=3))
    assert float(pair.scale_in) != float(pair.scale_out)


def test_the_log_counts_in_tokens_and_names_every_term(tmp_path):
    run(folder=tmp_path, log_every=10)
    rows = log(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 30] and rows[-1]["tokens"] == 30 * 64
    wanted = {"step", "tokens", "mse", "auxk", "total", "l0", "fvu", "dead", "lr", "tokens_per_second", "densities"}
    assert all(set(row) == wanted for row in rows)
    assert all(abs(row["l0"] - 3) < 1e-9 for row in rows), "the batch's budget is k per row"
    spec = lineage.read_json(tmp_path / "spec.json")
    assert spec["training"]["steps"] == 30 and spec["training"]["tokens"] == 1920 and spec["training"]["finished"]


def test_a_latent_silent_for_dead_after_tokens_is_dead_and_auxk_hears_of_it():
    made = recipe("topk_auxk", **ARGS)
    with torch.no_grad():
        made.dictionary.encoder.bias[5:] = -1e3
    rows = []
    run(made=made, dead_after=64 * 12, on_row=rows.append, log_every=1, lr=1e-9)
    dead = [row["dead"] for row in rows]
    assert set(dead[:12]) == {0.0} and dead[12] == 27 / 32, "12 steps of silence are not yet more than 12 x 64 tokens"
    assert all(row["auxk"] == 0 for row in rows[:20]), "the list of the dead is refreshed every 10 steps"
    assert all(row["auxk"] > 0 for row in rows[20:])
    made = recipe("topk_auxk", **ARGS)
    with torch.no_grad():
        made.dictionary.encoder.bias[5:] = -3.0
    run(made=made, dead_after=64 * 5, on_row=rows.append, log_every=1)
    assert rows[-1]["dead"] < 27 / 32 and any(row["auxk"] > 0 for row in rows[30:])


def test_the_log_counts_latents_by_how_often_they_fire():
    made = recipe("topk_auxk", **ARGS)
    with torch.no_grad():
        made.dictionary.encoder.bias[3:] = -1e3
        made.dictionary.encoder.bias[:3] = 1e3  # k = 3: these in every row, the others in none
    rows = []
    run(made=made, on_row=rows.append, log_every=7, lr=1e-9)
    assert [row["densities"] for row in rows] == [[29, *[0] * 11, 3]] * 5


def test_densities_by_hand():
    learner = training._Learner(recipe("k_sparse", **ARGS), 1e-3, 0)
    learner.rows = 10_000_000
    learner.fired[:6] = torch.tensor([1, 9, 11, 1_000_000, 4_000_000, 10_000_000])
    assert learner.densities() == [26, 3, *[0] * 9, 1, 2]
    assert learner.densities() == [32, *[0] * 12], "counted since the last row of the log"


def test_a_short_run_finishes_its_warm_ups():
    seen = []

    def loss(p, d, at):
        seen.append(at)
        return (p.y - p.y_hat).square().mean()

    made = recipe("topk_auxk", **ARGS)
    rows = []
    run(
        made=replace(made, losses={"only": Term(loss, frozenset({"encoder"}))}), on_row=rows.append, log_every=1, lr=1.0
    )
    assert seen[0] == Progress(0, 0, 1920) and seen[-1] == Progress(29, 29 * 64, 1920)
    rates = [row["lr"] for row in rows]
    assert rates[3] == 1.0 and 0 < rates[-1] < 0.2 and rates == sorted(rates[:2]) + rates[2:]


def test_a_loss_that_is_not_finite_is_told_with_step_term_and_rate():
    def loss(p, d, at):
        return p.y_hat.sum() * (float("nan") if at.step >= 13 else 1.0)

    made = recipe("topk_auxk", **ARGS)
    made = replace(made, losses=dict(made.losses) | {"odd": Term(loss, frozenset({"encoder"}))})
    with pytest.raises(FloatingPointError, match=r"odd is not finite at step 13 \(lr was 0\.01\)"):
        run(made=made)


def test_the_last_good_checkpoint_outlives_a_run_that_diverges(tmp_path):
    """The gradient of step 19 is not finite though its loss is: the checkpoint due after it is not written."""

    class Poison(Hook):
        def before_step(self, dictionary, seen, progress):
            if progress.step == 19:
                dictionary.encoder.weight.grad[0, 0] = float("nan")

    made = recipe("topk_auxk", **ARGS)
    made = replace(made, hooks=(Poison(), *made.hooks))
    with pytest.raises(FloatingPointError, match=r"encoder.weight is not finite after step 19 \(lr was 0\.01\)"):
        run(made=made, folder=tmp_path, checkpoint_every=10)
    state = lineage.read_json(tmp_path / "checkpoint" / "state.json")
    tensors = load_file(tmp_path / "checkpoint" / state["file"])
    assert state["step"] == 10 and all(value.isfinite().all() for value in tensors.values())


def test_a_kill_between_the_last_file_and_the_checkpoints_end_leaves_no_checkpoint(tmp_path):
    whole = weights(run(folder=tmp_path))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("left by a kill")
    assert weights(run(folder=tmp_path)) == whole
    assert not (tmp_path / "checkpoint").exists()


def test_rows_that_are_not_finite_are_told_before_step_0():
    class Bad(Planted):
        def batch(self, step):
            batch = super().batch(step)
            batch.x[3, 2] = float("nan")
            return batch

    with pytest.raises(ValueError, match="NaN or infinite values: collect the store again"):
        run(Bad(d=12, rows=64, steps=3))


def test_stop_keeps_what_was_trained_and_a_later_call_goes_on(tmp_path):
    rows = []
    whole = run()
    early = run(folder=tmp_path, stop=lambda: bool(rows), on_row=rows.append, log_every=10)
    assert lineage.read_json(tmp_path / "spec.json")["training"]["finished"] is False
    assert weights(load(tmp_path)) == weights(early) != weights(whole)
    assert weights(run(folder=tmp_path)) == weights(whole)
    assert early.training_summary["steps"] == 10


def test_a_run_in_a_thread_equals_one_in_front_and_can_be_paused_and_stopped():
    running = start(recipe("batch_topk", **ARGS), STREAM, site="3.resid", progress=False, dead_after=300, lr=1e-2)
    assert weights(running.wait(60)) == weights(run()) and len(running.rows) == 3
    long = replace(STREAM, steps=100_000)
    first = threading.Event()
    running = start(
        recipe("batch_topk", **ARGS), long, site=None, progress=False, log_every=1, on_row=lambda row: first.set()
    )
    assert first.wait(60)
    running.pause()
    with pytest.raises(TimeoutError, match="still runs"):
        running.wait(0.05)
    count = len(running.rows)
    assert running.paused and running.running
    running.resume()
    while len(running.rows) <= count + 1:
        pass
    running.stop()
    done = running.wait(60)
    assert isinstance(done, Dictionary) and done.training_summary["finished"] is False


def test_an_error_in_the_thread_is_raised_where_one_waits():
    running = start(recipe("batch_topk", **ARGS), replace(STREAM, d=13), site=None, progress=False)
    with pytest.raises(ValueError, match=r"rows have shape \(13,\), the recipe was made for \(12,\)"):
        running.wait(60)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    stopped, first = threading.Event(), threading.Event()
    options = {"site": None, "progress": False, "log_every": 1, "folder": tmp_path}
    running = start(
        recipe("batch_topk", **ARGS),
        replace(STREAM, steps=100_000),
        on_row=lambda row: first.set(),
        stop=stopped,
        **options,
    )
    assert first.wait(60)
    with pytest.raises(RuntimeError, match="another process trains in"):
        train(recipe("batch_topk", **ARGS), STREAM, **options)
    stopped.set()
    running.wait(60)


def test_hooks_and_their_random_numbers_are_part_of_the_run(tmp_path):
    class Noise(Hook):
        def before_step(self, dictionary, seen, progress):
            dictionary.decoder.bias.grad.add_(torch.randn(12, generator=seen.rng))

    def noisy():
        made = recipe("topk_auxk", **ARGS)
        return replace(made, hooks=(*made.hooks, Noise()))

    whole = run(made=noisy())
    with pytest.raises(Interrupted):
        run(broken(9), noisy(), folder=tmp_path, checkpoint_every=4)
    assert (
        weights(run(made=noisy(), folder=tmp_path)) == weights(whole) != weights(run(made=recipe("topk_auxk", **ARGS)))
    )


def test_pca_equals_the_svd_and_leaves_its_share_of_the_variance():
    stream = replace(STREAM, size=9.0)
    d = run(stream, recipe("pca", d=12, k=5))
    rows = torch.cat([batch.x for batch in stream.batches()]).double()
    centred = rows - rows.mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    cosines = (torch.nn.functional.normalize(d.atoms().double(), dim=-1) * v[:5]).sum(-1).abs()
    torch.testing.assert_close(cosines, torch.ones(5).double(), rtol=0, atol=1e-6)
    found = fvu(d, Batch(rows.float(), rows.float()))
    assert math.isclose(found, float(s[5:].square().sum() / s.square().sum()), rel_tol=1e-4)
    code = d.encode(rows.float())
    assert (code.values < 0).any() and (code.counts() == 5).all()


def test_a_trained_dictionary_beats_the_baselines():
    stream = replace(STREAM, steps=150)
    batch = stream.batch(999)
    found = {
        name: fvu(run(stream, recipe(name, **args)), batch)
        for name, args in {"batch_topk": ARGS, "pca": {"d": 12, "k": 3}, "random_atoms": ARGS}.items()
    }
    assert found["batch_topk"] < 0.5 * found["pca"] and found["batch_topk"] < 0.5 * found["random_atoms"], found


def test_a_skip_connection_takes_the_linear_part():
    stream = replace(STREAM, kind="pair", linear=2.0, steps=150)
    batch, args = stream.batch(999), {"d": 12, "latents": 32, "k": 1}
    plain, skip = (fvu(run(stream, recipe(name, **args)), batch) for name in ("transcoder", "skip_transcoder"))
    assert skip < 0.5 * plain, (skip, plain)


def test_the_place_is_remembered():
    d = run(target="4.mlp_out", exclusion=Exclusion(norm=5.0), subject_fingerprint="0123456789abcdef")
    assert (str(d.site), str(d.target), d.exclusion.norm, d.subject) == (
        "3.resid",
        "4.mlp_out",
        5.0,
        "0123456789abcdef",
    )
    assert str(run().target) == "3.resid" and run(site=None).target is None
    assert not any(p.requires_grad for p in d.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"made": []}, ValueError, "no recipe to train"),
        ({"lr": 0.0}, ValueError, "lr must be a positive number"),
        ({"lr": [1e-3, 1e-3]}, ValueError, "one for each of 1 recipes"),
        ({"log_every": 0}, ValueError, "log_every must be 1 or more steps, got 0"),
        ({"scale": "rms"}, ValueError, 'scale must be "auto", a number or None'),
        ({"scale": -1.0}, ValueError, r"a scale must be a positive number, got -1\.0"),
        ({"site": "12.residual"}, ValueError, "stream must be one of"),
        ({"stream": replace(STREAM, steps=0)}, ValueError, "the stream has no batch"),
        ({"stream": replace(STREAM, size=0.0)}, ValueError, "first 1920 rows are all the same"),
        ({"coupled": {"x": losses.mse()}}, ValueError, "coupled terms need two or more recipes"),
    ],
)
def test_bad_calls_are_told_in_one_line(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_a_recipe_has_losses_or_a_fit():
    with pytest.raises(ValueError, match="either losses, for the training loop, or a fit"):
        Recipe(recipe("topk_auxk", **ARGS).dictionary)


def test_a_term_that_finishes_the_model_wants_a_live_stream():
    made = recipe("topk_auxk", **ARGS)
    made = replace(made, losses={"kl": Term(losses.mse().loss, frozenset({"encoder"}), frozenset({"finish"}))})
    with pytest.raises(ValueError, match="train on a live stream"):
        run(made=made)


@pytest.mark.torture
def test_killed_runs_end_as_if_nobody_had_killed_them():
    script = Path(__file__).parent / "torture_train.py"
    done = subprocess.run([sys.executable, script, "--kills", "6"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "'kills': 6" in done.stdout and "every resumed run equal" in done.stdout
