"""Facts: sentences say what their labels say, and follow the documented chances."""

import re
from collections import Counter
from itertools import product
from math import factorial, sqrt

import pytest
import torch

from workbench.testbeds.worlds import facts as f

WORLD = f.facts()
CITY = [1 / (k + 1) / sum(1 / j for j in range(1, 13)) for k in range(12)]
YEAR = [factorial(15) / factorial(k) / factorial(15 - k) / 2**15 for k in range(16)]
COLOUR = [0.75**k * 0.25 / (1 - 0.75**8) for k in range(8)]
DOCUMENTED = {"city": CITY, "trade": [0.1] * 10, "year": YEAR, "colour": COLOUR}


def read(words):
    """What a sentence says, by trying every template: (name, attribute, template, value)."""
    text = " ".join(words)
    found = []
    for attribute, told in f.TEMPLATES.items():
        for t, template in enumerate(told):
            before, middle, after = (re.escape(part) for part in template.split("{}"))
            match = re.fullmatch(rf"<bos> {before}((?:[a-z]{{2}} ){{1,2}}[a-z]{{2}}){middle}(\S+){after} \.", text)
            if match and match[2] in f.VALUES[attribute].split():
                found.append((tuple(match[1].split()), attribute, t, match[2]))
    assert len(found) == 1, text
    return found[0]


def test_labels_agree_with_the_words_on_10000_samples():
    told = WORLD.sample(10_000, 3)
    forgotten = {name for name, out in zip(WORLD.names, WORLD.forgotten.tolist(), strict=True) if out}
    known = {}
    columns = [c.tolist() for c in told]
    for ids, at, answer, entity, attribute, template, value, other, asked, forget in zip(*columns, strict=True):
        words = [f.WORDS[i] for i in ids]
        end = words.index(".")
        assert set(words[end + 1 :]) <= {"<pad>"}
        name, what, how, worth = read(words[: end + 1])
        assert at == end - 1 and words[at] == worth and answer == ids[at]
        assert WORLD.names.index(name) == entity
        assert list(f.TEMPLATES)[attribute] == what and template == how
        values = f.VALUES[what].split()
        assert values[value] == worth and int(WORLD.truth[entity, attribute]) == value
        assert 0 <= other < len(values) and other != value
        assert known.setdefault((name, what), worth) == worth, "a fact has one value"
        assert asked == (int(WORLD.kept[entity, attribute]) == how)
        assert forget == (name in forgotten)


def test_a_fact_is_told_in_three_templates_and_asked_in_the_fourth():
    told, asked = ([tuple(r) for r in WORLD.told(a).ids.tolist()] for a in (False, True))
    assert len(told) == 3 * 256 * 4 and len(asked) == 256 * 4
    assert len(set(told) | set(asked)) == 4 * 256 * 4, "no sentence twice, none on both sides"
    trained = {tuple(r) for step in range(40) for r in f._batch(0, step).tolist()}
    assert trained <= set(told)
    templates = Counter(read([f.WORDS[i] for i in r if i])[:2] for r in told)
    assert set(templates.values()) == {3}
    assert WORLD.told(True).asked.all() and not WORLD.told(False).asked.any()


def test_the_words_before_a_value_say_which_attribute_is_due():
    prompts = [(a, re.sub(r"\{\}(?= |$)", "NAME", t.rpartition(" ")[0])) for a in f.ATTRIBUTES for t in f.TEMPLATES[a]]
    assert len({p for _, p in prompts}) == 16
    for (a, p), (b, q) in product(prompts, prompts):
        assert a == b or not q.startswith(p + " "), f"{p} could go on as {q}"


def near(count, n, p):
    return abs(count / n - p) < 4 * sqrt(p * (1 - p) / n) + 1e-12


def test_the_table_follows_the_documented_chances():
    world, n = f.facts(entities=20_000, seed=11), 20_000
    assert len(set(world.names)) == n
    for r, (attribute, chances) in enumerate(DOCUMENTED.items()):
        assert sum(chances) == pytest.approx(1)
        counts = torch.bincount(world.truth[:, r], minlength=len(chances)).tolist()
        assert len(counts) == len(chances) == len(f.VALUES[attribute].split())
        assert all(near(c, n, p) for c, p in zip(counts, chances, strict=True)), attribute
        assert all(near(c, n, 0.25) for c in torch.bincount(world.kept[:, r], minlength=4).tolist())
    for a, b in ((0, 1), (0, 3), (1, 2), (2, 3)):
        p, q = list(DOCUMENTED.values())[a][0], list(DOCUMENTED.values())[b][0]
        assert near(int(((world.truth[:, a] == 0) & (world.truth[:, b] == 0)).sum()), n, p * q), "independent"
        assert near(int((world.kept[:, a] == world.kept[:, b]).sum()), n, 0.25), "and so are the templates kept"


def test_names_follow_the_documented_chances():
    # few enough that two rarely fall together (which would thin out the short ones)
    names = [name for seed in range(40) for name in f.facts(entities=50, seed=seed).names]
    short = sum(len(name) == 2 for name in names)
    assert near(short, len(names), 0.5) and {len(name) for name in names} == {2, 3}
    syllables = Counter(s for name in names for s in name)
    total = sum(syllables.values())
    assert len(f.SYLLABLES) == len(set(f.SYLLABLES)) == 70
    assert all(near(syllables[s], total, 1 / 70) for s in f.SYLLABLES)


def test_a_sample_is_uniform_and_so_are_its_false_values():
    n = 40_000
    told = WORLD.sample(n, 8)
    for column, many in ((told.attribute, 4), (told.template, 4)):
        assert all(near(c, n, 1 / many) for c in torch.bincount(column, minlength=many).tolist())
    counts = torch.bincount(told.entity, minlength=256).double()
    chi = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    assert abs(chi - 255) < 4 * sqrt(2 * 255)
    trade = (told.attribute == 1) & (told.value == 3)
    false = torch.bincount(told.other[trade], minlength=10).tolist()
    assert false[3] == 0
    assert all(near(c, int(trade.sum()), 1 / 9) for k, c in enumerate(false) if k != 3)


def test_forget_and_retain_sets_are_as_large_as_asked_and_seeded():
    assert int(WORLD.forgotten.sum()) == 26
    assert torch.equal(f.facts().forgotten, WORLD.forgotten)
    assert not torch.equal(f.facts(seed=1).forgotten, WORLD.forgotten)
    assert not f.facts(forget=0.0).forgotten.any() and f.facts(forget=1.0).forgotten.all()


def test_chance_is_the_share_of_the_commonest_values():
    shares = [max(Counter(column).values()) / 256 for column in WORLD.truth.T.tolist()]
    assert WORLD.commonest() == pytest.approx(sum(shares) / 4)


def test_the_model_is_asked_where_the_value_is_due():
    told = WORLD.told(True)
    seen = {}

    class Model(torch.nn.Module):
        def forward(self, input_ids):
            seen["ids"] = input_ids
            return type("Out", (), {"logits": torch.nn.functional.one_hot(input_ids.roll(-1, 1), len(f.WORDS)).float()})

    assert torch.equal(f.said(Model(), told).argmax(-1), told.answer), "one that knows the next word is always right"
    assert torch.equal(seen["ids"], told.ids)
    recall = f._quality(Model(), 0)[0]
    assert recall.value == 1 and recall.n == 1024


@pytest.mark.parametrize("bad", [{"entities": 0}, {"forget": -0.1}, {"forget": 1.5}, {"entities": 200_000}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match="entities must be 1 to 100000 and forget 0 to 1"):
        f.facts(**bad)
