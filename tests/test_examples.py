"""Labelled rows: folds by groups, pooling, sums, reading through a subject, and what is refused."""

from dataclasses import replace

import plain_codecs
import pytest
import torch
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from workbench.batch import Exclusion
from workbench.evaluate import Case, Examples
from workbench.evaluate.examples import TEST, TRAIN, VALIDATION, folds

NAMES = {"letter": ("a", "b")}


def labelled(n: int = 40, **more) -> Examples:
    return Examples.of(torch.randn(n, 4), {"letter": torch.arange(n) % 2}, NAMES, **more)


def subject() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_and_folds_have_their_shares(seed):
    group = torch.randint(0, 300, (2000,), generator=torch.Generator().manual_seed(seed))
    fold = folds(group, seed=seed)
    for g in group.unique():
        assert len(fold[group == g].unique()) == 1
    assert (fold.bincount(minlength=3) / 2000).tolist() == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    assert torch.equal(fold, folds(group, seed=seed)) and not torch.equal(fold, folds(group, seed=seed + 1))


def test_pooling_is_the_mean_over_an_examples_rows():
    """Example 0 has rows 0, 2 and 4, example 1 row 1, example 2 row 3."""
    x, example = torch.arange(10.0).view(5, 2), torch.tensor([0, 1, 0, 2, 0])
    three = Examples.of(
        x, {"letter": torch.tensor([0, 1, 0])}, NAMES, example=example, fold=torch.tensor([TRAIN, VALIDATION, TEST])
    )
    assert three.pooled(x).tolist() == [[4.0, 5.0], [2.0, 3.0], [6.0, 7.0]]
    assert three.sizes.tolist() == [3, 1, 1]
    codec = plain_codecs.PlainCodec(torch.eye(2), lambda x: (x - 3).relu(), torch.zeros(2))
    case = Case(codec, None, plain_codecs.MemoryRows(x))
    assert torch.allclose(case.pooled(three), three.pooled((x - 3).relu()))
    assert case.of(three) is case.of(three) and case.pooled(three) is case.pooled(three)


def test_sums_are_over_groups_of_the_test_fold():
    fold, group = torch.tensor([0, 1, 2, 2, 2, 0]), torch.tensor([0, 1, 2, 2, 3, 4])
    examples = Examples.of(
        torch.randn(6, 2), {"letter": torch.tensor([0, 1, 0, 1, 0, 1])}, NAMES, fold=fold, group=group, unit="word"
    )
    sums = examples.sums({"right": torch.tensor([9.0, 9, 1, 0, 1, 9])})
    assert sums.by["right"].tolist() == [1.0, 1.0] and sums.by["examples"].tolist() == [2.0, 1.0]
    assert sums.unit == "word"
    whole = examples.sums({"both": torch.ones(6, 2)}, fold == TRAIN)
    assert whole.by["both"].tolist() == [[1.0, 1.0]] * 2


def test_another_seed_draws_other_folds_of_the_same_rows():
    first = labelled(seed=0)
    other = first.reseeded(3)
    assert other.x is first.x and not torch.equal(other.fold, first.fold)
    assert torch.equal(other.fold, labelled(seed=3).fold)


def test_rows_are_read_at_the_kept_positions_of_each_text():
    model = subject()
    tokens = model.tokenize([" ".join(f"w{i + j}" for j in range(2 + i % 3)) for i in range(3, 15)])
    read = {"letter": torch.arange(12) % 2}
    h = model.read(tokens, ["1.resid"])[wb.Site.of("1.resid")]
    kept = model.exclusion.by_token(tokens, model.special_ids)
    found = Examples.read(model, tokens, "1.resid", read, NAMES, group=torch.arange(12))
    assert torch.allclose(found.x, h[kept]) and torch.equal(found.example, kept.nonzero()[:, 0])
    assert found.y is found.x and found.share_excluded == pytest.approx(1 - int(kept.sum()) / int(tokens.mask.sum()))
    last = Examples.read(model, tokens, "1.mlp_in", read, NAMES, target="1.mlp_out", at="last")
    places = tokens.mask.sum(1) - 1
    for site, rows in (("1.mlp_in", last.x), ("1.mlp_out", last.y)):
        assert torch.allclose(rows, model.read(tokens, [site])[wb.Site.of(site)][torch.arange(12), places], atol=1e-6)
    assert torch.equal(found.fold, folds(torch.arange(12)))


def test_a_norm_rule_leaves_rows_out_and_says_how_many():
    model = subject()
    tokens = model.tokenize([f"w{i} w{i + 1} w{i + 2} w{i + 3} w{i + 4}" for i in range(3, 40)])
    norms = model.read(tokens, ["1.resid"])[wb.Site.of("1.resid")].norm(dim=-1)
    rule = Exclusion(norm=1.2, medians={"1.resid": float(norms.median())})
    kept = rule.by_token(tokens, model.special_ids) & (norms <= 1.2 * norms.median())
    assert kept.any(1).all()
    found = Examples.read(model, tokens, "1.resid", {"letter": torch.arange(37) % 2}, NAMES, exclusion=rule)
    assert len(found.x) == int(kept.sum()) < int(rule.by_token(tokens, model.special_ids).sum())
    assert found.share_excluded == pytest.approx(1 - int(kept.sum()) / int(tokens.mask.sum()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"letter": torch.zeros(40, dtype=torch.long)}}, "'letter' is of one class only"),
        ({"labels": {"letter": torch.arange(39) % 2}}, "one class per example .40., got 39"),
        ({"labels": {"letter": torch.arange(40) % 3}}, "class numbers of its 2 classes"),
        ({"labels": {"other": torch.arange(40) % 2}}, "class numbers of its 0 classes"),
        ({"x": torch.full((40, 4), float("nan"))}, "x holds NaN or infinity"),
        ({"y": torch.randn(39, 4)}, "one x, y and example number per row, got 40 rows"),
        ({"example": torch.arange(40) * 2}, "number them without gaps"),
        ({"group": torch.arange(3)}, "group must hold one number per example .40., got 3"),
        ({"fold": torch.zeros(40, dtype=torch.long)}, "the validation fold is empty"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as told:
        replace(labelled(), **change)
    assert "\n" not in str(told.value)


def test_texts_without_a_position_and_masks_of_another_shape_are_refused():
    model = subject()
    tokens = model.tokenize(["w3 w4 w5", "w6", "w8 w9"])
    label = {"letter": torch.tensor([0, 1, 0])}
    with pytest.raises(ValueError, match="1 of 3 texts have no position left"):
        Examples.read(model, tokens, "1.resid", label, NAMES, exclusion=Exclusion(first=True))
    with pytest.raises(ValueError, match="mask of positions must be"):
        Examples.read(model, tokens, "1.resid", label, NAMES, at=torch.ones(2, 2, dtype=torch.bool))


def test_codes_that_are_not_finite_and_needs_of_another_kind_are_refused():
    examples, bad = labelled(), plain_codecs.PlainCodec(torch.eye(4), lambda x: x * float("nan"), torch.zeros(4))
    case = Case(bad, None, plain_codecs.MemoryRows(examples.x), name="bad", given={"labelled": [1, 2]})
    with pytest.raises(ValueError, match="bad gives 160 codes that are NaN or infinite"):
        case.of(examples)
    with pytest.raises(TypeError, match="'labelled' must be Examples, got list"):
        case.need("labelled", Examples)
    with pytest.raises(ValueError, match="bad was given no 'truth': Case.*Examples"):
        case.need("truth", Examples)


def test_a_changed_copy_of_a_case_starts_without_what_was_computed():
    x = torch.randn(40, 4)
    case = Case(plain_codecs.identity(4), None, plain_codecs.MemoryRows(x))
    assert case.scanned is case.scanned and case.seeded(1).scanned is case.scanned
    assert replace(case, codec=plain_codecs.scaled(4, 0.5)).scanned is not case.scanned
