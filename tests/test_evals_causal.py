"""Evals that intervene: exchanging attributes, forgetting, single ablations, control beside supervised dictionaries."""

from copy import copy
from dataclasses import replace
from math import exp, log, pi
from types import SimpleNamespace
from typing import Any

import plain_codecs
import pytest
import torch

from workbench import testbeds
from workbench.batch import Exclusion, Tokens
from workbench.evaluate import Case
from workbench.evaluate.evals import ravel as ravel_file
from workbench.evaluate.evals import supervised_ioi as supervised_file
from workbench.evaluate.evals.ablation_sparsity import ablation_sparsity
from workbench.evaluate.evals.ravel import Swaps, ravel
from workbench.evaluate.evals.supervised_ioi import Attributes, supervised_ioi
from workbench.evaluate.evals.unlearning import Forgetting, unlearning
from workbench.evaluate.tasks import facts, ioi
from workbench.evaluate.tasks.ioi import SITE, Toy
from workbench.site import Site
from workbench.testbeds.models import word_tokenizer
from workbench.testbeds.prompts.ioi import PLACES, TEMPLATES, THINGS


def tokens(rows) -> Tokens:
    ids = torch.as_tensor(rows)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def case(codec, subject, **given) -> Case:
    rows = plain_codecs.MemoryRows(subject.embed if hasattr(subject, "embed") else torch.randn(4, 96))
    return Case(codec, subject, rows, resamples=100, given=given)


def values(scores) -> dict[str, float]:
    return {s.metric: s.value for s in scores}


# ---- ravel: 16 people, two attributes of two values each, one axis for each value


def people(n=16, span=1) -> tuple[Any, Swaps]:
    """Tokens 1 to 4 are answers, 5.. people, then two questions; the answer reads the person just before."""
    which = torch.tensor([[i % 2, 2 + i // 2 % 2] for i in range(n)])
    eye = torch.eye(6)
    embed = torch.cat([torch.zeros(5, 6), eye[which].sum(1), eye[4:]])

    def head(h):
        before = torch.cat([torch.zeros_like(h[:, :span]), h[:, :-span]], 1)[..., :4]
        said = torch.full((*h.shape[:2], len(embed)), -9.0)
        said[..., 1:5] = before + 5 * h[..., 4:].repeat_interleave(2, -1)
        return said

    subject = Toy(embed, head)
    person, asked = torch.arange(n).repeat_interleave(2), torch.arange(2).repeat(n)
    prompts = tokens(torch.stack([0 * person, *[5 + person] * span, 5 + n + asked], 1))
    at = (prompts.ids >= 5) & (prompts.ids < 5 + n)
    answer = 1 + which[person, asked]
    fold = torch.where(person % 4 < 2, 0, 2) if n > 4 else person % 2 * 2
    return subject, Swaps(prompts, at, answer, person, asked, ("first", "second"), fold)


def test_a_mask_finds_the_latents_of_each_attribute_and_they_alone_are_exchanged():
    subject, swaps = people()
    found = values(ravel(case(plain_codecs.identity(6, SITE), subject, swaps=balanced(swaps)), subspace=2, steps=80))
    assert found["disentangle"] == found["cause"] == found["isolation"] == 1
    assert found["mask_share"] == pytest.approx(2 / 6)  # of four latents that fire there, two say an attribute
    assert found["disentangle_full"] == 0.5 and found["isolation_rebuilt"] == 1  # the whole vector carries all along
    assert found["disentangle_subspace"] == 1  # two axes are enough


def balanced(swaps):
    """Both folds have people of all four kinds."""
    return replace(swaps, fold=torch.where(swaps.entity < 8, 0, 2))


def test_pairs_want_the_sources_answer_where_it_is_asked_and_the_bases_where_another_is():
    subject, swaps = people()
    swaps = balanced(swaps)
    given = case(plain_codecs.identity(6, SITE), subject, swaps=swaps)
    rows, right = ravel_file._read(given, swaps, False)
    truth = torch.full((16, 2), -1)
    truth[swaps.entity, swaps.attribute] = swaps.answer
    for fold in (0, 2):
        pairs = ravel_file._pairs(swaps, rows, right, fold, 40, 0)
        base, source, asked = swaps.entity[pairs.base], swaps.entity[pairs.source], swaps.attribute[pairs.base]
        assert (swaps.fold[pairs.base] == fold).all() and (swaps.fold[pairs.source] == fold).all()
        assert (truth[base, asked] != truth[source, asked]).all() and 0 < int(pairs.cause.sum()) < len(base)
        assert ((asked == pairs.attribute) == pairs.cause).all()
        assert (swaps.attribute[pairs.source] == pairs.attribute).all()
        assert (pairs.wanted == torch.where(pairs.cause, truth[source, asked], truth[base, asked])).all()


def test_one_latent_for_both_attributes_cannot_move_one_of_them():
    subject, swaps = people()
    kinds = torch.stack([torch.eye(6)[i] + torch.eye(6)[2 + j] for i in range(2) for j in range(2)])
    joint = plain_codecs.PlainCodec(
        kinds, lambda x: (x @ kinds.T > 1.5).float(), torch.zeros(6), site=SITE, target=SITE
    )
    found = values(ravel(case(joint, subject, swaps=balanced(swaps)), steps=80))
    assert found["isolation_rebuilt"] == 1 and found["disentangle"] < 0.8


def test_the_error_is_kept_only_when_asked_for():
    subject, swaps = people()
    # a dictionary that knows of the first attribute only, and rebuilds the second away
    half = plain_codecs.PlainCodec(torch.eye(6)[:2], lambda x: x[:, :2], torch.zeros(6), site=SITE, target=SITE)
    given = case(half, subject, swaps=balanced(swaps))
    without, kept = (values(ravel(given, error=e, steps=80)) for e in (False, True))
    assert kept["isolation_rebuilt"] == 1 > without["isolation_rebuilt"]
    assert kept["isolation"] == 1 and kept["cause"] == 0.5  # nothing is known of the second attribute


def test_prompts_answered_wrongly_make_no_pair():
    subject, swaps = people()
    swaps = balanced(swaps)
    answer = swaps.answer.clone()
    answer[3] = 1  # what the subject says of person 1's second attribute is neither city
    found = ravel(case(plain_codecs.identity(6, SITE), subject, swaps=replace(swaps, answer=answer)), steps=80)
    assert found["disentangle"].value == 1 and found["disentangle"].share_excluded == pytest.approx(1 / 32)
    with pytest.raises(ValueError, match="answers none of the 32 prompts rightly"):
        ravel(case(plain_codecs.identity(6, SITE), subject, swaps=replace(swaps, answer=5 + swaps.answer)))


def test_entities_of_several_tokens_are_exchanged_token_by_token():
    subject, swaps = people(span=2)
    found = values(ravel(case(plain_codecs.identity(6, SITE), subject, swaps=balanced(swaps)), steps=80))
    assert found["disentangle"] == 1 and found["disentangle_full"] == 0.5


def test_what_is_wrong_with_swaps_is_one_line():
    subject, swaps = people()
    swaps = balanced(swaps)
    for changes, said in (
        ({"at": torch.zeros_like(swaps.at)}, "every prompt needs a real token of its entity"),
        ({"attributes": ("first",)}, "two or more attributes"),
        ({"answer": torch.where(swaps.attribute == 1, 3, swaps.answer)}, "'second' has one answer only"),
        ({"fold": torch.zeros_like(swaps.fold)}, "the test fold is empty"),
        ({"fold": torch.arange(32) % 2 * 2}, "an entity stands in two folds"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(swaps, **changes)
    codec = plain_codecs.identity(6, SITE)
    some = torch.isin(swaps.entity % 4, torch.tensor([0, 3]))  # they differ in everything, and now in length
    two = swaps.at | ((swaps.tokens.ids == 0) & (swaps.entity[:, None] % 4 == 3))
    parts = {p: getattr(swaps, p)[some] for p in ("answer", "entity", "attribute", "fold")}
    anywhere = plain_codecs.MemoryRows(subject.embed, exclusion=Exclusion(first=False, special=False))
    with pytest.raises(ValueError, match="differ in their number of tokens"):
        odd = replace(swaps, tokens=swaps.tokens.rows(some), at=two[some], **parts)
        ravel(Case(codec, subject, anywhere, given={"swaps": odd}))
    with pytest.raises(ValueError, match="toy has no site 1.resid"):
        ravel(case(plain_codecs.identity(6, Site(1, "resid")), subject, swaps=swaps))
    with pytest.raises(ValueError, match="must be positive"):
        ravel(case(codec, subject, swaps=swaps), steps=0)
    with pytest.raises(ValueError, match="no subject"):
        ravel(Case(codec, None, plain_codecs.MemoryRows(torch.eye(6)), given={"swaps": swaps}))


# ---- unlearning: answers 1 to 4 are the axes; a person to forget says 1 by axis 0, a person to keep says 2 by axis 1


def memory(extra=None) -> tuple[Any, Forgetting]:
    """Eight people to forget, then eight to keep, tokens 5 to 20; token 21 is what `extra` gives."""
    eye = torch.eye(4)
    gone, kept = 2 * eye[0] + eye[2], 2 * eye[1] + eye[2]
    embed = torch.cat(
        [torch.zeros(5, 4), gone.expand(8, 4), kept.expand(8, 4), (kept if extra is None else extra)[None]]
    )

    def head(h):
        said = torch.full((*h.shape[:2], len(embed)), -50.0)
        said[..., 1:5] = h
        return said

    person = torch.arange(16)
    text = tokens(torch.stack([0 * person, 5 + person, 1 + person // 8], 1))
    given = Forgetting(
        text.rows(torch.arange(16))._replace(ids=text.ids[:, :2], mask=text.mask[:, :2]),
        1 + person // 8,
        person < 8,
        person,
        1 + person % 2,
        text.rows(slice(0, 8)),
        text.rows(slice(8, 16)),
        text.rows(slice(8, 16)),
    )
    return Toy(embed, head), given


def test_forgetting_by_hand():
    """Axis 0 alone fires on no retained token; set to zero, the next best answer wins: 3, which axis 2 says."""
    subject, given = memory()
    found = values(unlearning(case(plain_codecs.identity(4, SITE), subject, forgetting=given)))
    for mode in ("", "_scale", "_zero"):
        assert found[f"forgotten{mode}"] == found[f"retained{mode}"] == 1 and found[f"side_effect{mode}"] == 0
    assert found["latents_edited"] == found["multiplier"] == 1  # the least of the settings that do the same


def test_the_side_effect_is_the_rise_of_the_loss_where_the_latent_is_on_but_not_at_a_first_token():
    subject, given = memory()
    other = tokens([[0, 5, 1], [0, 13, 2], [5, 13, 2], [0, 14, 2]])  # person 5 is to be forgotten
    given = replace(given, other_text=other)
    codec = plain_codecs.identity(4, SITE)
    found = values(unlearning(case(codec, subject, forgetting=given), multipliers=(3.0,)))

    def rise(new):  # logits 2, 0, 1, 0 become new, 0, 1, 0; the true token is the first
        return -new + log(exp(new) + exp(1) + 2) + 2 - log(exp(2) + exp(1) + 2)

    assert found["side_effect"] == pytest.approx(rise(-6.0) / 8, rel=1e-5)  # 2 predictions in each of 4 texts
    assert found["side_effect_scale"] == pytest.approx(rise(-6.0) / 8, rel=1e-5)
    assert found["side_effect_zero"] == pytest.approx(rise(0.0) / 8, rel=1e-5)


def test_the_clamp_is_one_value_for_all_and_scaling_is_each_ones_own():
    subject, given = memory()
    embed = subject.embed.clone()
    embed[5:9, 0] = 4.0  # half the people to forget say it twice as loud: the mean active size is 3
    embed[21] = torch.tensor([4.0, 0, 1, 0])
    loud = Toy(embed, subject.head)
    given = replace(given, other_text=tokens([[0, 21, 1]]))
    found = values(unlearning(case(plain_codecs.identity(4, SITE), loud, forgetting=given), multipliers=(1.0,)))

    def rise(new):
        return -new + log(exp(new) + exp(1) + 2) + 4 - log(exp(4) + exp(1) + 2)

    assert found["side_effect"] == pytest.approx(rise(-3.0) / 2, rel=1e-5)
    assert found["side_effect_scale"] == pytest.approx(rise(-4.0) / 2, rel=1e-5)


def test_nothing_is_edited_where_no_setting_keeps_enough_and_settings_are_chosen_on_validation():
    subject, given = memory()
    wide = plain_codecs.PlainCodec(
        torch.tensor([[1.0, 1, 1, 0]]), lambda x: x[:, 2:3], torch.zeros(4), site=SITE, target=SITE
    )  # its latent is on for everyone, and pushes away what anyone says
    found = values(unlearning(case(wide, subject, forgetting=given), densities=(0.5, 1.0), multipliers=(4.0,)))
    assert found["forgotten"] == found["latents_edited"] == 0 and found["retained"] == 1
    # a question of the validation half alone that says 2 by 5 on axis 0: any edit of axis 0 breaks it, the test half
    # would never know
    mixed, given = memory(torch.tensor([5.0, 6.0, 5.5, 0]))
    q = tokens(torch.cat([given.questions.ids, torch.tensor([[0, 21]])]))
    more = replace(
        given,
        questions=q,
        answer=torch.cat([given.answer, torch.tensor([2])]),
        forget=torch.cat([given.forget, torch.tensor([False])]),
        group=torch.arange(17),
        fold=torch.cat([given.fold, torch.tensor([1])]),
    )
    edited = plain_codecs.PlainCodec(
        torch.tensor([[1.0, 1.0, 0, 0]]), lambda x: x[:, :1], torch.zeros(4), site=SITE, target=SITE
    )  # the one latent takes axis 1 along with axis 0
    found = values(unlearning(case(edited, mixed, forgetting=given)))
    assert found["forgotten"] == 1
    found = values(unlearning(case(edited, mixed, forgetting=more)))
    assert found["forgotten"] == found["latents_edited"] == 0
    assert values(unlearning(case(edited, mixed, forgetting=replace(more, fold=3 - more.fold))))["forgotten"] == 1


def test_forgetting_does_not_depend_on_units():
    subject, given = memory()
    codec, by = plain_codecs.identity(4, SITE), 37.5
    large = Toy(by * subject.embed, lambda h: subject.head(h / by))
    found = [
        values(unlearning(c, multipliers=(3.0,)))
        for c in (
            case(codec, subject, forgetting=given),
            case(plain_codecs.rescaled(plain_codecs.mean(torch.zeros(4), SITE), 1.0), subject, forgetting=given),
            case(replace(codec, encoder=lambda x: x / by, dictionary=by * torch.eye(4)), large, forgetting=given),
            case(replace(codec, encoder=lambda x: -x, dictionary=-torch.eye(4)), subject, forgetting=given),
        )
    ]
    assert found[0] == pytest.approx(found[2]) and found[0] == pytest.approx(found[3])  # signed codes, too
    assert found[1]["forgotten"] == 0 and found[1]["retained"] == 1


def test_what_is_wrong_with_forgetting_is_one_line():
    subject, given = memory()
    for changes, said in (
        ({"forget": torch.zeros(16, dtype=torch.bool)}, "there are no facts to forget"),
        ({"forget": torch.ones(16, dtype=torch.bool)}, "there are no facts to keep"),
        ({"fold": torch.ones(16, dtype=torch.long)}, "the test half has no question to forget"),
        ({"group": torch.zeros(16, dtype=torch.long)}, "a group of questions stands in both halves"),
        ({"retain_text": given.retain_text.rows(slice(0, 0))}, "there is no retain_text"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(given, **changes)
    codec = plain_codecs.identity(4, SITE)
    wrong = replace(given, answer=torch.where(given.forget, 4, given.answer))
    with pytest.raises(ValueError, match="answers no question to forget rightly"):
        unlearning(case(codec, subject, forgetting=wrong))
    with pytest.raises(ValueError, match="keep must be"):
        unlearning(case(codec, subject, forgetting=given), keep=1.5)
    with pytest.raises(ValueError, match="must be positive"):
        unlearning(case(codec, subject, forgetting=given), multipliers=(0.0,))
    with pytest.raises(TypeError, match="must be Forgetting, got int"):
        unlearning(case(codec, subject, forgetting=3))


# ---- ablation sparsity


def ablating(embed, head, codec, ids):
    subject: Any = Toy(embed, head)
    return Case(codec, subject, plain_codecs.MemoryRows(embed), tokens(ids), resamples=100)


def test_an_ablation_that_moves_m_of_v_logits_alike_counts_m_of_v():
    writes = torch.zeros(3, 16)
    for channel, m in enumerate((1, 2, 5)):
        writes[channel, 3 * channel : 3 * channel + m] = channel + 1.0
    writes += 4  # every channel shifts all logits alike as well, which says nothing
    given = ablating(torch.eye(3), lambda h: h @ writes, plain_codecs.identity(3, SITE), [[0, 1, 2, 2], [0, 0, 1, 1]])
    found = ablation_sparsity(given)
    # positions but the first: channels 1, 2, 2 and 0, 1, 1
    assert found["changed"].value == pytest.approx((1 + 3 * 2 + 2 * 5) / 6 / 16)
    assert found["moved"].value == pytest.approx((1 + 3 * 2 * 2**0.5 + 2 * 3 * 5**0.5) / 6, rel=1e-5)
    assert found["changed"].n == 6 and found["changed"].share_excluded == 0


def test_random_directions_move_the_share_that_normal_numbers_give():
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    given = ablating(x, lambda h: h, plain_codecs.identity(512, SITE), torch.arange(64).view(4, 16))
    found = ablation_sparsity(given, ablations=40)
    assert found["changed"].value == pytest.approx(1 / 512) and found["changed"].n == 40
    assert found["changed"].chance == pytest.approx(2 / pi, abs=0.01)  # (E|c|)^2 / E c^2


def test_the_contribution_is_value_times_atom_and_silent_positions_are_left_out():
    atoms = torch.tensor([[3.0, 0, 0], [0, 0.5, 0]])
    codec = plain_codecs.PlainCodec(
        atoms, lambda x: x[:, :2] / torch.tensor([3.0, 0.5]), torch.zeros(3), site=SITE, target=SITE
    )
    given = ablating(torch.eye(3), lambda h: h @ torch.eye(3, 8), codec, [[0, 0, 1, 2], [0, 2, 2, 1]])
    found = ablation_sparsity(given)
    assert found["moved"].value == pytest.approx(1.0) and found["changed"].share_excluded == 0.5
    with pytest.raises(ValueError, match="no latent of dictionary is active at the 6 positions drawn"):
        ablation_sparsity(replace(given, codec=plain_codecs.mean(torch.ones(3), SITE)))
    with pytest.raises(ValueError, match="changes a logit"):
        ablation_sparsity(ablating(torch.eye(3), lambda h: torch.ones(*h.shape[:2], 8), codec, [[0, 0, 1, 2]]))
    with pytest.raises(ValueError, match="leaves no position"):
        ablation_sparsity(ablating(torch.eye(3), lambda h: h, codec, [[0], [1]]))
    with pytest.raises(ValueError, match="has no tokens"):
        ablation_sparsity(replace(given, tokens=None))
    with pytest.raises(ValueError, match="1 or more, got 0"):
        ablation_sparsity(given, ablations=0)


# ---- supervised dictionaries


def exact(copies=2):
    """The toy without noise; its first copy of every joint value trains, the others test."""
    made = ioi.toy(noise=0.0, copies=copies)
    fold = torch.where(torch.arange(len(made.rows)) < 72, 0, 2)
    return made._replace(attributes=replace(made.attributes, fold=fold))


def planted(made, keep=None, latents=None, read=None):
    """The true dictionary, with some of its latents only, or others."""
    vectors = torch.cat([made.atoms, made.mean[None]]) if latents is None else latents
    dual = torch.linalg.pinv(torch.cat([made.atoms, made.mean[None]]))

    def encode(x):
        z = x @ dual
        z = torch.where(z > 0.5, z, 0.0)
        z = z if read is None else read(z)
        return z if keep is None else z * keep

    return plain_codecs.PlainCodec(vectors, encode, torch.zeros(32), site=SITE, target=SITE)


def test_on_a_full_design_without_noise_the_supervised_and_the_true_dictionary_are_perfect():
    made = exact()
    found = values(supervised_ioi(case(planted(made), made.subject, attributes=made.attributes)))
    ones = "control control_supervised sufficiency necessity sufficiency_supervised necessity_supervised f1 split"
    assert {m: found[m] for m in ones.split()} == pytest.approx(dict.fromkeys(ones.split(), 1.0), abs=1e-4)
    assert found["occluded"] == 0
    # the weight of an edit: of x = mean + three vectors, what the vector that goes says along x
    x, test = made.rows[72:], made.attributes.fold == 2
    gone = [made.atoms[start + made.attributes.labels[a][test]] for a, start in (("io", 0), ("s", 6), ("order", 12))]
    weight = torch.stack([(v * x).sum(1) / x.square().sum(1) for v in gone]).mean()
    assert found["edit_share"] == pytest.approx(float(weight), abs=1e-4)


def test_an_attribute_without_latents_is_occluded_and_out_of_control():
    made = exact()
    keep = torch.ones(15)
    keep[:6] = 0
    found = values(supervised_ioi(case(planted(made, keep), made.subject, attributes=made.attributes)))
    assert found["control_io"] == 0 and found["control_s"] == found["control_order"] == 1
    assert found["control"] == pytest.approx(2 / 3)
    assert found["occluded"] == pytest.approx(6 / 14)


def test_a_value_said_by_three_latents_is_split_and_their_union_is_whole():
    made = exact()

    def read(z):  # io0 has a latent of its own for each two values of `s`
        pairs = z[:, 6:12].view(-1, 3, 2).amax(-1) > 0
        return torch.cat([z[:, :1] * pairs[:, :1], z[:, 1:], z[:, :1] * pairs[:, 1:]], 1)

    codec = planted(made, latents=torch.cat([made.atoms, made.mean[None], made.atoms[:1], made.atoms[:1]]), read=read)
    given = case(codec, made.subject, attributes=made.attributes)
    found = values(supervised_ioi(given, k=4))
    assert found["split"] == pytest.approx(16 / 14) and found["f1"] == 1 and found["control"] == 1
    assert found["f1_single"] == pytest.approx((13 + 0.5) / 14)
    one = values(supervised_ioi(given, k=2, most=1))
    assert one["f1"] == one["f1_single"] and one["control_io"] < 1


def test_the_site_carries_from_the_mean_vector_up_whatever_is_tested():
    made = exact()
    of = made.attributes
    some = replace(of, fold=torch.where((of.fold == 2) & (of.labels["io"] > 0), 1, of.fold))  # one answer only
    center = made.rows[:72].mean(0)
    for codec, carried in ((plain_codecs.identity(32, SITE), 1.0), (plain_codecs.mean(center, SITE), 0.0)):
        found = values(supervised_ioi(case(codec, made.subject, attributes=some)))
        assert found["sufficiency"] == pytest.approx(carried, abs=1e-4)
        assert found["necessity"] == pytest.approx(carried, abs=1e-4)
        assert found["sufficiency_supervised"] == pytest.approx(1, abs=1e-4)
        assert found["necessity_supervised"] == pytest.approx(1, abs=1e-4)


def test_nothing_is_chosen_or_averaged_on_test_prompts():
    made = ioi.toy(noise=0.2)
    of, codec = made.attributes, plain_codecs.random(60, 32, site=SITE)
    given = case(codec, made.subject, attributes=of)
    x, on = made.rows, codec.encode(made.rows).to_dense() > 0
    seen, train, test = supervised_file._look(given, of), of.fold == 0, of.fold == 2
    each = []
    for a, label in of.labels.items():
        for v in range(len(of.classes[a])):
            mean = x[train & (label == v)].mean(0) - x[train].mean(0)
            assert torch.allclose(seen.vectors[a][v], mean, atol=1e-5)
            best = max(range(60), key=lambda j, y=label == v: f1(on[train, j], y[train]))
            each.append(f1(on[test, best], (label == v)[test]))
    assert values(supervised_ioi(given, most=1))["f1"] == pytest.approx(sum(each) / len(each), abs=1e-6)


def f1(said, truth) -> float:
    both = float((said & truth).sum())
    return 2 * both / float(said.sum() + truth.sum()) if both else 0.0


def test_only_prompts_whose_answer_a_true_patch_moves_are_counted():
    made = exact()
    dual, joint = torch.linalg.pinv(made.atoms), torch.cartesian_prod(*map(torch.arange, ioi.SIZES.values()))
    reads, tilt = dual[:, joint[:, 0]] + dual[:, 12 + joint[:, 2]], 1e-2 * joint[:, 1]  # of `s`, always the first
    deaf = Toy(made.subject.embed, lambda h: (h - made.mean) @ reads - tilt)
    found = values(supervised_ioi(case(planted(made), deaf, attributes=made.attributes)))
    assert "control_s" not in found and found["control"] == found["control_io"] == found["control_order"] == 1


def test_greedy_takes_what_brings_the_texts_nearest_to_the_target():
    drawn = torch.Generator().manual_seed(3)
    twice = 0
    for _ in range(6):
        target, change = torch.randn(8, generator=drawn), 1 + 0.3 * torch.randn(5, 20, generator=drawn)
        atoms = torch.randn(20, 8, generator=drawn) * torch.rand(20, 1, generator=drawn)

        def far(*which, target=target, change=change, atoms=atoms):  # mean squared distance when these are changed
            return float((target - change[:, list(which)] @ atoms[list(which)]).square().sum(1).mean())

        best = min(range(20), key=far)
        first = [best] if far(best) < float(target.square().sum()) else []
        assert supervised_file._greedy(target, change, atoms, 1).nonzero()[:, 0].tolist() == first
        again = min((j for j in range(20) if j != best), key=lambda j, best=best, far=far: far(best, j))
        wanted = first + [again] * (bool(first) and far(best, again) < far(best))
        assert supervised_file._greedy(target, change, atoms, 2).nonzero()[:, 0].tolist() == sorted(wanted)
        twice += len(wanted) == 2
    assert twice > 1
    away = supervised_file._greedy(-torch.ones(8), torch.ones(5, 20), torch.ones(20, 8), 3)
    assert not away.any(), "a latent that would lead away is not taken"


def test_what_is_wrong_with_attributes_is_one_line():
    made = exact()
    given = made.attributes
    short = {a: Tokens(t.ids[:, :1], t.mask[:, :1]) for a, t in given.changed.items()}
    for changes, said in (
        ({"fold": torch.zeros_like(given.fold)}, "the test fold is empty"),
        ({"labels": {"io": given.labels["io"]}}, "must name the same attributes"),
        ({"labels": dict(given.labels) | {"s": 0 * given.labels["s"]}}, "'s' has one value only"),
        ({"changed_to": given.labels}, "another value of it"),
        ({"changed": short}, "have other lengths than the prompts"),
        ({"fold": torch.where(given.labels["io"] == 2, 2, given.fold)}, "1 of 6 values of 'io' are in no train prompt"),
        ({"classes": dict(given.classes) | {"io": ["a", "b"]}}, "'io' must number its 2 values"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(given, **changes)
    codec = planted(made)
    with pytest.raises(ValueError, match="changes no answer"):
        silent = Toy(
            made.subject.embed, lambda h: torch.arange(72.0).expand(*h.shape[:2], 72) + 0 * h.sum(-1)[..., None]
        )
        supervised_ioi(case(codec, silent, attributes=given))
    with pytest.raises(ValueError, match="does not lower the logit difference"):
        supervised_ioi(case(codec, made.subject, attributes=replace(given, right=given.wrong, wrong=given.right)))
    with pytest.raises(ValueError, match="k and most must be"):
        supervised_ioi(case(codec, made.subject, attributes=given), k=0)
    with pytest.raises(ValueError, match="has no site 3.mlp_out"):
        supervised_ioi(case(plain_codecs.identity(32, Site(3, "mlp_out")), made.subject, attributes=given))
    with pytest.raises(ValueError, match="d must be 14 or more"):
        ioi.toy(d=13)


def test_parts_of_other_lengths_are_refused_by_name():
    """Where the suite's shape checks are off, as for a user, these lines are what one reads."""
    (_, swaps), (_, forgetting), attributes = people(), memory(), exact().attributes
    for data, part, said in (
        (balanced(swaps), "answer", "answer must hold one number per prompt"),
        (balanced(swaps), "at", "at must be"),
        (forgetting, "answer", "answer must hold one value per question"),
        (attributes, "at", "at must hold one number per prompt"),
    ):
        spoiled = copy(data)
        object.__setattr__(spoiled, part, getattr(data, part)[:-1])
        with pytest.raises(ValueError, match=said):
            spoiled.__post_init__()


# ---- data


def test_facts_are_asked_as_the_subject_knows_them():
    subject = testbeds.subject("facts")
    swaps = facts.swaps(subject, prompts=200)
    found = ravel(case(plain_codecs.identity(96, Site.of("1.resid")), subject, swaps=swaps), steps=3, draws=1)
    assert found["disentangle_full"].value == 0.5, "the last token's vector says one answer, whoever is asked"
    assert found["isolation_rebuilt"].value == 1 and found["cause"].share_excluded < 0.05
    last = swaps.tokens.mask.sum(1) - 1
    assert (swaps.at == (torch.arange(swaps.at.shape[1]) == last[:, None])).all()
    named = facts.swaps(subject, at="name", prompts=None)
    syllables = set(facts.WORLD.names[7])
    mine = named.entity == 7
    said = {w for row, on in zip(named.tokens.ids[mine], named.at[mine], strict=True) for w in subject.words(row[on])}
    assert said == syllables and int(mine.sum()) == 16
    for what, share in (("people", 26 / 256), ("trade", 0.25)):
        given = facts.forgetting(subject, what=what)
        assert float(given.forget.float().mean()) == pytest.approx(share)
        assert len(given.forget_text.ids) == 3 * int(given.forget.sum())
        kept, other, gone = ({tuple(r) for r in t.ids.tolist()} for t in (
            given.retain_text, given.other_text, given.forget_text))  # fmt: skip
        assert len(kept | other) == 3 * int((~given.forget).sum()) and not kept & other and not gone & (kept | other)
    with pytest.raises(ValueError, match="'people' or one of city"):
        facts.forgetting(subject, what="height")
    with pytest.raises(ValueError, match="testbeds.subject"):
        facts.swaps(testbeds.subject("induction"))


def test_ioi_prompts_differ_from_their_changed_ones_in_the_one_attribute():
    names = ["Mary", "Anna", "Emma", "Sarah", "John", "James", "Robert", "Michael"]
    plain = " ".join(t.format(a="", b="", s="", place="", thing="") for t in TEMPLATES)
    words = dict.fromkeys(
        f"{plain} {' '.join(PLACES)} {' '.join(THINGS)} {' '.join(names)}".replace(",", " , ").split()
    )

    class Words:
        name, tokenizer = "words", word_tokenizer(list(words))

        def tokenize(self, texts):
            rows = [self.tokenizer(t.replace(",", " , "))["input_ids"] for t in texts]
            most = max(map(len, rows))
            ids = torch.tensor([r + [0] * (most - len(r)) for r in rows])
            return Tokens(ids, torch.tensor([[i < len(r) for i in range(most)] for r in rows]))

    subject: Any = Words()
    for at in ("end", "s2"):
        given = ioi.ioi(subject, n=60, at=at, template=None)
        ids, n = given.tokens.ids, torch.arange(60)
        assert (given.right != given.wrong).all() and (given.labels["io"] != given.labels["s"]).all()
        if at == "s2":
            assert (ids[n, given.at] == given.wrong).all(), "the name said twice"
        else:
            assert (given.at == given.tokens.mask.sum(1) - 1).all()
        for a, b in (("io", "s"), ("s", "io")):
            assert (given.changed_to[a] != given.labels[b]).all()
        for a, times in (("io", 1), ("s", 2), ("order", 2)):
            assert ((given.changed[a].ids != ids).sum(1) == times).all()
        assert (given.changed["s"].ids[n, given.at] != ids[n, given.at]).all() == (at == "s2")
    with pytest.raises(ValueError, match="the name 'Mary' is 2 tokens"):
        letters: Any = SimpleNamespace(name="letters", tokenizer=lambda text, **_: {"input_ids": [1, 2]})
        ioi.ioi(letters)
    with pytest.raises(ValueError, match="names must be 3"):
        ioi.ioi(subject, names=2)
    assert isinstance(given, Attributes)
