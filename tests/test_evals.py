"""The suite that every file in workbench/evaluate/evals/ joins by being there."""

import importlib.util
import inspect
import re
import sys
from dataclasses import replace
from functools import cache
from math import isnan
from pathlib import Path
from types import SimpleNamespace

import plain_codecs
import pytest
import torch
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from workbench import catalogue, evaluate
from workbench.evaluate import Case, Scores, evals

EVALS = catalogue.names("evals")
SITE = wb.Site.of("embed")
TRIALS = Path(__file__).parent / "trials"
KINDS = ("true", "random", "identity", "mean")
BY = 37.5
LATENTS, D, VOCAB = 24, 32, 96


@cache
def world() -> SimpleNamespace:
    """A tiny model whose embeddings are sparse sums of known atoms, and rows of text that it wrote itself."""
    x, atoms = plain_codecs.planted(VOCAB, LATENTS, D, k=2, lean=3.0)
    model = tiny_llama()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(x)
    subject = wb.Subject(model, tiny_tokenizer(), name="planted")
    starts = torch.arange(3, 67)[:, None] % VOCAB
    tokens = subject.generate(starts, new=24, temperature=1.0).tokens
    keep = subject.exclusion.by_token(tokens, subject.special_ids)
    text, pos = keep.nonzero(as_tuple=True)
    rows = plain_codecs.MemoryRows(x[tokens.ids[keep]], text=text, pos=pos, texts=torch.arange(64) // 2)
    codecs = {
        "true": plain_codecs.true(atoms, SITE),
        "random": plain_codecs.random(LATENTS, D, site=SITE),
        "identity": plain_codecs.identity(D, SITE),
        "mean": plain_codecs.mean(rows.x.mean(0), SITE),
    }
    cases = {
        name: Case(codec, subject, rows, tokens, rows.texts, name, resamples=300) for name, codec in codecs.items()
    }
    return SimpleNamespace(**cases, rows=rows)


@cache
def trial(name: str) -> SimpleNamespace:
    """Cases `true`, `random`, `identity`, `mean`, and `larger`, the random one with activations BY times larger.

    An eval that needs more than the shared world has `tests/trials/NAME.py` with a function `cases()`. A case may be
    None where the eval has no meaning for it.
    """
    path = TRIALS / f"{name}.py"
    if not path.exists():
        case, shared = world().random, world()
        codec = plain_codecs.rescaled(case.codec, BY)
        larger = Case(codec, None, replace(shared.rows, x=BY * shared.rows.x), resamples=300)
        return SimpleNamespace(**{n: getattr(shared, n) for n in KINDS}, larger=larger)
    spec = importlib.util.spec_from_file_location(f"trial_{name}", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found.cases()


def module(name: str):
    return catalogue.module("evals", name)


def scores(name: str, case: Case) -> Scores:
    return catalogue.entry("evals", name)(case)


@pytest.mark.parametrize("name", EVALS)
def test_it_is_a_documented_function_of_a_case_whose_options_have_defaults(name):
    assert inspect.getdoc(module(name)) and inspect.getdoc(catalogue.entry("evals", name))
    first, *options = inspect.signature(catalogue.entry("evals", name)).parameters.values()
    assert first.name == "case"
    assert all(o.kind is o.KEYWORD_ONLY and o.default is not o.empty for o in options)


@pytest.mark.parametrize("name", EVALS)
def test_the_true_dictionary_beats_a_random_one_in_the_declared_direction(name):
    true, random = (next(iter(scores(name, case))) for case in (trial(name).true, trial(name).random))
    assert true.direction == random.direction != "none"
    assert true.value > random.value if true.direction == "higher" else true.value < random.value


@pytest.mark.parametrize("name", EVALS)
def test_identity_and_mean_get_the_values_that_the_file_documents(name):
    for case, declared in ((trial(name).identity, "IDENTITY"), (trial(name).mean, "MEAN")):
        wanted = getattr(module(name), declared, {})
        if wanted:
            found = scores(name, case)
            assert {m: found[m].value for m in wanted} == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", EVALS)
def test_it_moves_with_the_units_only_where_it_says_so(name):
    invariant = getattr(module(name), "SCALE_INVARIANT", ())
    if invariant:
        found = trial(name)
        for metric in invariant:
            before, after = scores(name, found.random)[metric], scores(name, found.larger)[metric]
            assert (after.value, after.low, after.high) == pytest.approx(
                (before.value, before.low, before.high), rel=1e-4
            )


@pytest.mark.parametrize("name", EVALS)
def test_every_number_is_whole_and_repeats_with_its_seed(name):
    first, again = (scores(name, replace(trial(name).random)) for _ in range(2))
    assert first == again
    for score in first:
        assert score.unit and score.counted and score.n > 0 and 0 <= score.share_excluded < 1
        assert not isnan(score.value) and score.low <= score.value <= score.high, score
        assert re.fullmatch(r".*\d+ x .+", score.resampled)


@pytest.mark.parametrize("name", EVALS)
def test_weights_that_want_gradients_change_nothing(name):
    case = trial(name).random
    assert isinstance(case.codec, plain_codecs.PlainCodec)
    wanting = {part: getattr(case.codec, part).clone().requires_grad_() for part in ("dictionary", "bias")}
    assert scores(name, replace(case, codec=replace(case.codec, **wanting))) == scores(name, case)


@pytest.mark.parametrize("name", EVALS)
def test_it_joins_the_table_beside_its_seconds(name):
    true, random = (replace(case, name=n) for n, case in vars(trial(name)).items() if n in ("true", "random"))
    table = evaluate.run([true, random], [name])
    assert set(table["dictionary"]) == {"true", "random"} and set(table["eval"]) == {name}
    assert (table["seconds"] >= 0).all() and not table["error"].any()


@pytest.mark.parametrize("needy", [n for n in EVALS if evaluate.needs()[n]])
def test_what_it_lacks_is_named_in_a_row_and_stops_nothing(needy):
    bare = replace(trial(needy).true, name="bare", tokens=None, texts=None, given={})
    with pytest.warns(UserWarning, match=f"{needy} of bare failed"):
        table = evaluate.run([bare], [needy, "dead"])
    assert table["value"].isna().tolist() == [True, False]
    assert any(need in table["error"][0] for need in evaluate.needs()[needy])


@pytest.mark.parametrize("name", EVALS)
def test_every_trial_belongs_to_an_eval_and_every_need_is_given_there(name):
    needs = [n for n in evaluate.needs()[name] if n != "tokens"]
    assert all(n in trial(name).true.given for n in needs)
    assert {p.stem for p in TRIALS.glob("[!_]*.py")} <= set(EVALS)


def test_the_guides_example_is_an_eval_with_nothing_else_edited(tmp_path, monkeypatch):
    """The file that docs/guide_eval.md shows, in a folder beside the real ones, passes this suite by being there."""
    guide = (Path(__file__).parents[1] / "docs" / "guide_eval.md").read_text()
    (name, code) = re.findall(r"evals/(\w+)\.py`[^\n]*\n\n```python\n(.*?)```", guide, re.DOTALL)[0]
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(evals, "__path__", [*evals.__path__, str(tmp_path)])
    assert name in catalogue.names("evals") and name not in EVALS
    suite = [f for n, f in globals().items() if n.startswith("test_") and "name" in inspect.signature(f).parameters]
    for test in suite:
        test(name)
    assert len(suite) >= 6
    del sys.modules[f"{evals.__name__}.{name}"]
