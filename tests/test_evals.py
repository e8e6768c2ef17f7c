"""The suite that every file in workbench/evaluate/evals/ joins by being there."""

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
    true, random = (next(iter(scores(name, case))) for case in (world().true, world().random))
    assert true.direction == random.direction != "none"
    assert true.value > random.value if true.direction == "higher" else true.value < random.value


@pytest.mark.parametrize("name", EVALS)
def test_identity_and_mean_get_the_values_that_the_file_documents(name):
    for case, declared in ((world().identity, "IDENTITY"), (world().mean, "MEAN")):
        wanted = getattr(module(name), declared, {})
        if wanted:
            found = scores(name, case)
            assert {m: found[m].value for m in wanted} == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", EVALS)
def test_it_moves_with_the_units_only_where_it_says_so(name):
    invariant = getattr(module(name), "SCALE_INVARIANT", ())
    if invariant:
        case, by = world().random, 37.5
        larger = Case(
            plain_codecs.rescaled(case.codec, by), None, replace(world().rows, x=by * world().rows.x), resamples=300
        )
        for metric in invariant:
            before, after = scores(name, case)[metric], scores(name, larger)[metric]
            assert (after.value, after.low, after.high) == pytest.approx(
                (before.value, before.low, before.high), rel=1e-4
            )


@pytest.mark.parametrize("name", EVALS)
def test_every_number_is_whole_and_repeats_with_its_seed(name):
    first, again = (scores(name, replace(world().random, cache={})) for _ in range(2))
    assert first == again
    for score in first:
        assert score.unit and score.counted and score.n > 0 and 0 <= score.share_excluded < 1
        assert not isnan(score.value) and score.low <= score.value <= score.high, score
        assert re.fullmatch(r".*\d+ x .*(document|group).*", score.resampled)


@pytest.mark.parametrize("name", EVALS)
def test_it_joins_the_table_beside_its_seconds(name):
    table = evaluate.run([world().true, world().random], [name])
    assert set(table["dictionary"]) == {"true", "random"} and set(table["eval"]) == {name}
    assert (table["seconds"] >= 0).all()


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
