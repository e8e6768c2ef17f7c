"""Prompt sets: every label agrees with the rule it claims, and scores are what known logits and vectors give."""

import ast
import hashlib
import inspect
import io
import json
import math
import re
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import catalogue, lineage
from workbench.batch import Tokens
from workbench.harvest import corpora, corpus
from workbench.subject import offline
from workbench.testbeds import prompt
from workbench.testbeds.prompt import Prompts, accuracy, prompt_set
from workbench.testbeds.prompts import _words

SETS = catalogue.names("prompts")
FETCHED = ("genres", "spam")
ANSWERS = [name for name in SETS if name not in (*FETCHED, "decades", "places", "polysemous", "induction_text")]


def packed(path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


MAIL = "From: someone@example.org\nSubject: x\nContent-Type: text/plain\n\n{}\n"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Small stand-ins for the fetched corpora, pinned in the table; an empty cache."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    tagged = {f"c{'abdkr'[i % 5]}{i:02d}": " ".join(f"w{i}x{j}/nn" for j in range(110)) for i in range(40)}
    mails = {}
    for i in range(40):
        group = ("spam-1", "easy-ham-2")[i % 2]
        words = " ".join(f"{group[:4]}{i}x{j}" for j in range(90))
        mails[f"spam-assassin/data/{group}/{i:05d}.abc.txt"] = MAIL.format(words)
    for name, files in (("brown", tagged), ("spam", mails)):
        path = wheels / corpora.TARBALLS[name].file
        packed(path, files)
        monkeypatch.setitem(corpora.TARBALLS, name, corpora.TARBALLS[name]._replace(sha256=lineage.file_hash(path)))
    monkeypatch.setenv("WORKBENCH_WHEELS", str(wheels))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return wheels


def digest(found: Prompts) -> str:
    return hashlib.sha256(found.frame().to_json().encode()).hexdigest()[:16]


# What every set promises.


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_n_different_prompts_of_its_seed(name, planted):
    found = prompt_set(name, n=30, seed=3)
    assert len(found) == len(set(found.texts)) == len(found.labels) == 30
    assert found.name == name
    assert digest(found) == digest(prompt_set(name, n=30, seed=3))
    assert set(found.texts) != set(prompt_set(name, n=30, seed=4).texts), "the seed changes nothing"
    assert prompt_set(name, n=12, seed=3).texts == found.texts[:12], "a smaller set is the begin of a larger one"
    frame = found.frame()
    assert list(frame.text) == found.texts
    assert not frame.isna().any(axis=None)


@pytest.mark.parametrize("name", SETS)
def test_a_set_says_what_it_is(name):
    function = catalogue.entry("prompts", name)
    assert len(catalogue.module("prompts", name).__doc__) > 200 and function.__doc__
    json.dumps(catalogue.bound("prompts", name))
    assert list(inspect.signature(function).parameters)[:2] == ["n", "seed"]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("n", [0, -3, 3 * 10**8])
def test_more_prompts_than_there_are_is_an_error(name, n, planted):
    with pytest.raises(ValueError, match=r"^n must be 1 to \d+ different prompts, got") as caught:
        prompt_set(name, n=n)
    assert "\n" not in str(caught.value)


def test_sets_are_seed_stable_across_processes():
    names = [name for name in SETS if name not in FETCHED]
    code = (
        "import sys; sys.path.insert(0, 'tests')\nimport test_prompts as t\n"
        f"print('\\n'.join(t.digest(t.prompt_set(n, n=12, seed=5)) for n in {names}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [digest(prompt_set(name, n=12, seed=5)) for name in names]


@pytest.mark.parametrize("name", FETCHED)
def test_a_set_that_cannot_be_fetched_says_so_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("WORKBENCH_WHEELS", raising=False)
    with pytest.raises(ConnectionError, match=r"wanted .*\.tgz .* npm is not installed: .* WORKBENCH_WHEELS") as caught:
        prompt_set(name, n=3)
    assert "\n" not in str(caught.value)


def test_all_there_are_can_be_drawn():
    for name, most in (("capitals", 160), ("places", 1000), ("polysemous", 600), ("greater_than", 12_800)):
        assert len(prompt_set(name, n=most)) == most
        with pytest.raises(ValueError, match="n must be"):
            prompt_set(name, n=most + 3)


def test_picks_are_uniform_over_all_choices():
    seen = np.array([prompt.picks(6, (2, 3, 5), seed) for seed in range(2000)])
    assert all(len({tuple(row) for row in drawn}) == 6 for drawn in seen.tolist())
    counts = np.bincount(np.ravel_multi_index(tuple(seen.reshape(-1, 3).T), (2, 3, 5)), minlength=30)
    assert np.abs(counts - 400).max() < 4 * math.sqrt(2000 * 0.2 * 0.8)  # 4 sigma of a binomial, 2000 draws of 6 in 30
    wide = np.array(prompt.picks(5000, (3000, 2999), 0))
    assert abs(wide[:, 0].mean() / 2999 - 0.5) < 4 / math.sqrt(12 * 5000)
    assert wide.max(0).tolist() == pytest.approx([2999, 2998], abs=5)
    assert prompt.unlike("abcd", (3, 0, 0)) == ["d", "a", "b"]


# Labels against rules of their own.


def rows(name: str, n: int, **args):
    found = prompt_set(name, n=n, seed=1, **args)
    return zip(found.texts, found.right, found.wrong, found.labels.to_dict("records"), strict=True)


def test_ioi_names_the_answer_once_and_the_subject_twice():
    orders = []
    for text, right, wrong, label in rows("ioi", 3000):
        words = re.findall(r"[A-Z][a-z]+", text)
        assert words.count(label["io"]) == 1 and words.count(label["s"]) == 2
        assert (right, wrong) == ([f" {label['io']}"], [f" {label['s']}"])
        names = [w for w in words if w in (label["io"], label["s"])]
        assert (
            names
            == ([label["io"], label["s"], label["s"]], [label["s"], label["io"], label["s"]])[label["order"] == "BABA"]
        )
        assert label["place"] in text and label["thing"] in text
        assert text.startswith(catalogue.module("prompts", "ioi").TEMPLATES[label["template"]][:4])
        orders.append(label["order"])
    assert abs(orders.count("ABBA") - 1500) < 4 * math.sqrt(750)


def test_greater_than_is_true_of_every_completion():
    for text, right, wrong, label in rows("greater_than", 2000):
        noun, year, century = re.fullmatch(r"The (\w+) lasted from the year (\d{4}) to the year (\d\d)", text).groups()
        assert label == {"noun": noun, "century": int(century), "tens": int(year[2]), "units": int(year[3])}
        assert year.startswith(century)
        for tens in "0123456789":
            ends = [int(century + tens + unit) for unit in "0123456789"]
            assert (tens in right) == all(end > int(year) for end in ends if end // 10 != int(year) // 10) * (
                ends[0] // 10 != int(year) // 10
            )
            assert (tens in wrong) == (max(ends) < int(year) and ends[0] // 10 != int(year) // 10)


def test_docstring_asks_for_the_next_parameter():
    for text, right, wrong, label in rows("docstring", 1000):
        function = ast.parse(text + ' x: y\n    """\n').body[0]
        given = [a.arg for a in function.args.args][1:]
        described = re.findall(r":param (\w+):", text)
        assert len(given) == len(set(given)) == 6
        at = given.index(described[-1])
        assert given[at - len(described) + 1 : at + 1] == described
        assert right == [f" {given[at + 1]}"] and wrong == [f" {g}" for g in given if g != given[at + 1]]
        assert label == {"answer": given[at + 1], "parameters": " ".join(given)}


def test_induction_text_is_one_list_twice():
    for text, *_, label in rows("induction_text", 300, length=12):
        words = text.split(" ")[1:]
        assert label == {"length": 12}
        assert words[:12] == words[12:] and len(set(words)) == 12 and len(words) == 24


def test_acronyms_are_the_initials():
    for text, right, wrong, label in rows("acronym", 1000):
        *words, start = text.removeprefix("The ").split()
        assert start == f"({words[0][0]}{words[1][0]}" and right == [words[2][0]] and len(words) == 3
        assert sorted(wrong + right) == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        assert label == {"words": " ".join(words), "answer": right[0]}


def test_verbs_agree_with_the_subject_and_not_the_attractor():
    plural = re.compile(r"s$|^(children|men|women)$")  # no singular of the table ends so
    verbs = {" is": 0, " are": 1, " was": 0, " were": 1, " has": 0, " have": 1}
    mixed = 0
    for text, (right,), (wrong,), label in rows("agreement", 2000):
        many = bool(plural.search(label["subject"]))
        assert (verbs[right], verbs[wrong]) == (many, not many) and label["number"] == ("singular", "plural")[many]
        assert list(verbs).index(right) // 2 == list(verbs).index(wrong) // 2, "the same verb"
        other = bool(plural.search(label["attractor"]))
        assert label["attractor_number"] == ("singular", "plural")[other]
        assert re.search(rf"\b{label['subject']}\b.* the {label['attractor']}\b", text)
        template = catalogue.module("prompts", "agreement").TEMPLATES[label["template"]]
        assert text == template.format(**label) and right == f" {label['verb']}"
        mixed += many != other
    assert abs(mixed - 1000) < 4 * math.sqrt(500)


def test_opposites_go_both_ways():
    answers = {label["word"]: label["answer"] for *_, label in rows("antonyms", 270)}
    assert len(answers) == 90 and all(answers[answers[word]] == word for word in answers)
    known = {"hot": "cold", "up": "down", "first": "last", "war": "peace", "inside": "outside", "maximum": "minimum"}
    assert known.items() <= answers.items()
    templates = catalogue.module("prompts", "antonyms").TEMPLATES
    for text, right, wrong, label in rows("antonyms", 270):
        assert text == templates[label["template"]].format(label["word"]) and right == [label["answer"]]
        assert label["word"] in wrong and len(set(wrong)) == len(wrong) == 89 and label["answer"] not in wrong


def test_capitals_are_those_of_their_countries():
    told = (
        "Afghanistan Kabul/Australia Canberra/Austria Vienna/Belgium Brussels/Bulgaria Sofia/Canada Ottawa/"
        "Chile Santiago/China Beijing/Cuba Havana/Denmark Copenhagen/Egypt Cairo/Finland Helsinki/France Paris/"
        "Germany Berlin/Greece Athens/Hungary Budapest/Iran Tehran/Iraq Baghdad/Ireland Dublin/Italy Rome/"
        "Jamaica Kingston/Japan Tokyo/Kenya Nairobi/New Zealand Wellington/Norway Oslo/Peru Lima/Poland Warsaw/"
        "Portugal Lisbon/Russia Moscow/South Korea Seoul/Spain Madrid/Sweden Stockholm/Switzerland Bern/Syria Damascus/"
        "Tunisia Tunis/the Czech Republic Prague/the Netherlands Amsterdam/the Philippines Manila/"
        "the United Kingdom London/the United States Washington"
    )
    known = dict(pair.rsplit(" ", 1) for pair in told.split("/"))
    templates = catalogue.module("prompts", "capitals").TEMPLATES
    for shots in (0, 1):
        found = {}
        for text, right, wrong, label in rows("capitals", 160, shots=shots):
            found[label["country"]] = label["answer"]
            assert right == [f" {label['answer']}"] and len(wrong) == 39
            sentence, example = templates[label["template"]], label["example"]
            shown = f"{sentence.format(example)} {known[example]}. " if shots else ""
            assert text == shown + sentence.format(label["country"]) and example != label["country"]
            assert not re.search(rf"\b{label['answer']}\b", text)
        assert found.items() <= known.items() and len(found) > 30
        assert shots or found == known
    with pytest.raises(ValueError, match="shots must be 0 or 1"):
        prompt_set("capitals", shots=2)


def test_first_letters_are_first_letters():
    for text, right, wrong, label in rows("first_letters", 500, shots=3):
        *shown, asked = [re.fullmatch(r"The word (\w+) has the first letter:(?: (.))?", t) for t in text.split("\n")]
        assert len(shown) == 3 and all(m[2] == m[1][0].upper() for m in shown)
        assert right == [f" {asked[1][0].upper()}"] and asked[2] is None and len(wrong) == 25
        assert label == {"word": asked[1], "answer": asked[1][0].upper()}
    assert len({label["answer"] for *_, label in rows("first_letters", 500)}) > 18


def test_pronouns_follow_the_name():
    women = {"Mary", "Emma", "Susan", "Olivia", "Ruth", "Alice"}
    men = {"John", "Peter", "William", "Jack", "Adam", "Henry"}
    table = {}
    for text, right, wrong, label in rows("professions", 3000):
        name = text.split()[0]
        assert sorted(right + wrong) == [" he", " she"]
        assert (right == [" she"]) == (label["gender"] == "female") and name == label["name"]
        assert name not in (women if right == [" he"] else men)
        article = re.search(rf"\b(an?) {label['profession']}\.? ?", text)[1]
        assert (article == "an") == (label["profession"][0] in "aeiou")
        assert table.setdefault(label["profession"], label["stereotype"]) == label["stereotype"]
        template = catalogue.module("prompts", "professions").TEMPLATES[label["template"]]
        assert text == template.format(name=name, a=article, profession=label["profession"])
    assert table["nurse"] == "female" and table["carpenter"] == "male" and list(table.values()).count("male") == 20
    assert len(_words.FEMALE) == len(_words.MALE) == 44 and not set(_words.FEMALE) & set(_words.MALE)


def test_contexts_stand_under_wordnets_own_classes():
    classes = {4: "act", 6: "artifact", 7: "attribute", 9: "cognition", 10: "communication", 14: "group"}
    classes |= {15: "location", 17: "object", 18: "person", 24: "relation", 26: "state", 28: "time"}
    glosses = corpus("glosses")
    where = {
        example: title.split()[1]
        for text, title in zip(glosses.texts, glosses.labels.title, strict=True)
        for example in re.findall(r'"([^"]+)"', text)
    }
    found = prompt_set("polysemous", n=600)
    labels, checked = found.labels, 0
    for i in range(0, 600, 3):
        three = labels.iloc[i : i + 3]
        assert three.word.nunique() == 1 and list(three.role) == ["a", "a", "b"]
        senses = list(three.sense)
        assert senses[0] == senses[1] and senses[0][:2] != senses[2][:2]
    assert labels.word.nunique() == 200
    for text, label in zip(found.texts, labels.to_dict("records"), strict=True):
        assert len(re.findall(rf"\b{label['word']}\b", text)) == 2 and text.endswith(f" The {label['word']}")
        name = classes.get(int(label["sense"][:2]))
        if name and label["context"] in where:
            assert where[label["context"]] == f"noun.{name}"
            checked += 1
    assert checked > 200


def haversine(a, b) -> float:
    p, q, dp, dq = (*(math.radians(v) for v in (a[0], b[0], b[0] - a[0], b[1] - a[1])),)
    h = math.sin(dp / 2) ** 2 + math.cos(p) * math.cos(q) * math.sin(dq / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(h))


def test_places_lie_where_they_are():
    found = prompt_set("places", n=1000)
    at = {r["name"]: (r["latitude"], r["longitude"]) for r in found.labels.to_dict("records")}
    assert len(at) == 1000 and all(abs(lat) <= 90 and abs(lon) <= 180 for lat, lon in at.values())
    known = {("London", "New York City"): 5570, ("New York City", "Los Angeles"): 3936, ("London", "Sydney"): 16994}
    known |= {("Tokyo", "Sydney"): 7823, ("Paris", "Moscow"): 2487, ("Cairo", "Nairobi"): 3540}  # km, air distances
    for (a, b), km in known.items():
        assert haversine(at[a], at[b]) == pytest.approx(km, rel=0.01)
        ours = prompt.distance(*(prompt.unit(*np.array([at[c]]).T) for c in (a, b)))
        assert ours[0] == pytest.approx(haversine(at[a], at[b]), rel=1e-9)
    signs = {"London": (51.5, -0.1), "New York City": (40.7, -74.0), "Tokyo": (35.7, 139.7), "Sydney": (-33.9, 151.2)}
    assert all(at[name] == pytest.approx(where, abs=0.3) for name, where in signs.items()), (
        "north and east are positive"
    )
    assert set(found.labels.continent) == {"AF", "AS", "EU", "NA", "OC", "SA"}
    assert found.texts == [f"The city of {name}" for name in found.labels.name]
    rest = {r["name"]: (r["country"], r["continent"], r["people"]) for r in found.labels.to_dict("records")}
    places = {"London": "GB EU", "Tokyo": "JP AS", "Cairo": "EG AF", "Sydney": "AU OC", "Lima": "PE SA"}
    for name, where in places.items():
        assert " ".join(rest[name][:2]) == where and 4_000 < rest[name][2] < 15_000, "thousands of people"


def test_decades_are_those_of_the_speech():
    speeches = catalogue.module("prompts", "decades")._corpus("sotu")
    said = [" ".join(text.split()) for text in speeches]
    found = prompt_set("decades", n=300)
    assert found.labels.document.nunique() == 233, "every speech comes before any comes twice"
    for text, label in zip(found.texts, found.labels.to_dict("records"), strict=True):
        assert len(text.split()) == 48 and text in said[label["document"]]
        assert label["year"] == speeches.labels.year[label["document"]]
        assert label["decade"] == f"{str(label['year'])[:3]}0s"
    with pytest.raises(ValueError, match="words must be 1 or more"):
        prompt_set("decades", words=0)


def test_genres_are_browns(planted):
    found = prompt_set("genres", n=60)
    names = {"a": "press reportage", "b": "press editorial", "d": "religion", "k": "general fiction", "r": "humour"}
    for text, label in zip(found.texts, found.labels.to_dict("records"), strict=True):
        assert label["genre"] == names[label["document"][1]]
        numbers = {re.match(r"w(\d+)x", word)[1] for word in text.split()}
        assert numbers == {str(int(label["document"][2:]))}, "a passage is of one document"
    assert found.labels.document[:40].nunique() == 40


def test_mails_are_labelled_by_their_folder(planted):
    found = prompt_set("spam", n=40)
    for text, label in zip(found.texts, found.labels.to_dict("records"), strict=True):
        assert label["label"] == ("spam" if text.startswith("spam") else "ham")
        assert label["document"].startswith("spam" if label["label"] == "spam" else "easy-ham")
    with pytest.raises(ValueError, match="1 to 40 different"):  # one passage of each mail, however short
        prompt_set("spam", n=41, words=20)


def test_mails_lose_addresses_quotations_and_numbers():
    body = (
        "Hello Jo.Do+x@mail.example.org, call +1 (555) 010-9999 or see\nhttp://example.org/~jo?a=b today.\n"
        "On Monday Jo wrote:\n> quoted\n| too\n-- \nJo\njo@example.org"
    )
    said = corpora.plain(MAIL.format(body).encode())
    assert said == "Hello [address] call [number] or see\n[link] today."
    html = (
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>no\n"
        "--b\nContent-Type: text/plain; charset=odd-8\nContent-Transfer-Encoding: base64\n\nY2Fm6Q==\n--b--\n"
    )
    assert corpora.plain(html.encode()) == "café"


# The record.


def known_set(**changes) -> Prompts:
    given = {"name": "x", "texts": ["a b", "c d e"], "right": [["r"], ["s"]], "wrong": [["w"], ["v", "u"]]}
    return Prompts(**(given | {"labels": pd.DataFrame({"k": [1, 2]}), "doc": "Doc.\n\nmore"} | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"texts": ["a b"]}, "equally many"),
        ({"texts": ["a b", "a b"]}, "there twice"),
        ({"right": [["r"], []]}, r"'c d e' has right answers \[\]"),
        ({"wrong": [["r"], ["v"]]}, r"'a b' has right answers \['r'\] and wrong ones \['r'\]"),
        ({"kind": "class"}, "has right answers"),
    ],
)
def test_a_wrong_record_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        known_set(**changes)


def test_a_set_shows_itself_and_escapes():
    html = known_set(texts=["<script>x</script>", "c"])._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and "2 prompts: Doc." in html and "more" not in html
    assert (
        prompt_set("ioi", n=50)._repr_html_().count("ABBA") + prompt_set("ioi", n=50)._repr_html_().count("BABA") == 3
    )
    assert "2 prompts, answer, labels k" in repr(known_set())


# Scores by hand.


class Known:
    """Words are tokens; what it predicts and holds is given."""

    name, layers, vocab = "known", 2, 50

    def __init__(self, logits=None, vectors=None):
        self.words: dict[str, int] = {}
        self.logits, self.vectors = logits, vectors

    def tokenizer(self, text: str, add_special_tokens: bool = True):
        return {"input_ids": [self.words.setdefault(w, len(self.words)) for w in text.split()]}

    def tokenize(self, texts) -> Tokens:
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), 49)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        return Tokens(ids, mask)

    def text(self, ids) -> str:
        back = {i: w for w, i in self.words.items()}
        return " ".join(back[int(i)] for i in ids)

    def run(self, tokens: Tokens):
        out = torch.full((*tokens.ids.shape, self.vocab), -9.0)
        for i, (ids, mask) in enumerate(zip(*tokens, strict=True)):
            out[i, mask] = self.logits(self, ids[mask])
        out[~tokens.mask] = torch.randn(self.vocab) * 100
        return SimpleNamespace(logits=out)

    def read(self, tokens: Tokens, sites):
        out = torch.full((*tokens.ids.shape, 8), 1e4)  # massive at padding and at the first position
        for i, (ids, mask) in enumerate(zip(*tokens, strict=True)):
            out[i, 1 : int(mask.sum())] = self.vectors[self.text(ids[mask])]
        return {sites[0]: out}


def by_name(found) -> dict:
    return {q.metric: q for q in found}


def test_answers_are_scored_by_the_logits_at_the_last_token():
    said = {"a b": {"r": 3.0, "w": 1.0}, "c d e": {"s": 2.0, "v": 2.5, "u": 0.5}, "f": {"p": 1.0, "q": 0.0, "z": 8.0}}

    def logits(subject, ids):
        out = torch.full((len(ids), 50), 5.0)
        out[-1] = -9.0
        for word, value in said[subject.text(ids)].items():
            out[-1, subject.words[word]] = value
        return out

    subject = Known(logits)
    for word in "rwsvupqz":
        subject.tokenizer(word)
    found = Prompts(
        "x", ["a b", "c d e", "f"], [["r"], ["s"], ["p", "q"]], [["w"], ["v", "u"], ["z"]],
        pd.DataFrame({"k": [1, 2, 3]}), "Doc.",
    )  # fmt: skip
    for batch in (1, 2, 16):
        scores = by_name(accuracy(found, subject, batch))
        assert scores["right beats wrong"].value == pytest.approx(1 / 3)  # 3 > 1; 2 < 2.5; max(1, 0) < 8
        assert scores["right beats wrong"].chance == pytest.approx((1 / 2 + 1 / 3 + 2 / 3) / 3)
        assert scores["top-1"].value == pytest.approx(1 / 3)
        assert scores["top-1"].chance == pytest.approx(4 / 3 / 50)
        gaps = torch.tensor([2.0, 0.5, -7.5])  # 3 - 1; 2 - 1.5; 0.5 - 8
        assert scores["logit difference"].value == pytest.approx(gaps.mean().item())
        half = 1.959964 * gaps.std().item() / math.sqrt(3)
        assert scores["logit difference"].high == pytest.approx(gaps.mean().item() + half, rel=1e-5)


def test_an_answer_of_two_tokens_is_refused():
    found = known_set(right=[["r"], ["s t"]])
    with pytest.raises(ValueError, match="answer 's t' of x is 2 tokens of known, not one"):
        accuracy(found, Known(lambda subject, ids: torch.zeros(len(ids), 50)))


def test_the_second_half_is_scored_after_its_first_token():
    def copies(subject, ids):
        out = torch.zeros(len(ids), 50)
        for at, token in enumerate(ids):
            earlier = [k for k in range(at) if ids[k] == token]
            if earlier:
                out[at, ids[earlier[0] + 1]] = math.log(49 * 3)  # probability 3/4
        return out

    texts = ["a b c d a b c d", "e f g h i j e f g h i j"]
    found = Prompts("x", texts, [[], []], [[], []], pd.DataFrame({"length": [4, 6]}), "Doc.", "repeat")
    scores = by_name(accuracy(found, Known(copies)))
    assert scores["second-half accuracy"].value == 1
    assert scores["second-half accuracy"].chance == pytest.approx((1 / 4 + 1 / 6) / 2)
    assert scores["second-half loss"].value == pytest.approx(-math.log(0.75), rel=1e-5)
    assert scores["second-half loss"].chance == pytest.approx(math.log(50), rel=1e-5)
    with pytest.raises(ValueError, match="no repetition in known"):
        accuracy(Prompts("x", ["a b a c"], [[]], [[]], pd.DataFrame({"length": [2]}), "Doc.", "repeat"), Known(copies))


def documents(vectors, labels: pd.DataFrame, kind: str, **more) -> tuple[Prompts, Known]:
    texts = [f"a{i % 40} b{i // 40}" for i in range(len(labels))]
    empty = [[] for _ in texts]
    held = dict(zip(texts, vectors.float(), strict=True))
    return Prompts("x", texts, empty, empty, labels, "Doc.", kind, **more), Known(vectors=held)


def test_classes_are_read_from_documents_never_seen():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(60), 4)
    kinds = rng.integers(0, 3, 60)
    labels = pd.DataFrame({"genre": [f"g{k}" for k in kinds[of]], "document": of})
    own = torch.from_numpy(rng.normal(size=(60, 8)))[of]  # tells the document, nothing of the class
    clear = own.clone()
    clear[:, :3] += 20 * torch.eye(3, dtype=torch.double)[kinds[of]]
    for layer, site in ((None, "1.resid"), (0, "0.resid")):
        (score,) = accuracy(*documents(clear, labels, "class", target="genre"), layer=layer)
        assert score.metric == f"genre by a probe at {site}" and score.value == 1 and score.n == 60
        assert score.chance == pytest.approx(labels.genre.value_counts().max() / 240)
    (blind,) = accuracy(*documents(own, labels, "class", target="genre"))
    assert blind.value < score.chance + 4 * math.sqrt(0.25 / 60), "documents leak into the test part"
    with pytest.raises(ValueError, match="folds must be 2 to 60"):
        accuracy(*documents(clear, labels, "class", target="genre"), folds=61)
    with pytest.raises(ValueError, match="one genre only"):
        accuracy(*documents(clear, labels.assign(genre="g"), "class", target="genre"))


def test_pooling_leaves_the_massive_first_position_out():
    found, subject = documents(torch.ones(2, 8), pd.DataFrame({"genre": ["a", "b"], "document": [0, 1]}), "class")
    assert prompt._features(found, subject, 2, "1.resid").max() == 1
    single = Prompts("x", ["a"], [[]], [[]], pd.DataFrame({"k": [1]}), "Doc.", "class")
    with pytest.raises(ValueError, match="single token of known"):
        prompt._features(single, Known(vectors={"a": torch.ones(8)}), 1, "1.resid")


def test_senses_that_lie_together_are_told_apart():
    rng = np.random.default_rng(0)
    words = np.repeat([f"w{i}" for i in range(40)], 3)
    base = np.repeat(rng.normal(size=(40, 8)), 3, axis=0)
    vectors = base + 0.01 * rng.normal(size=(120, 8))
    vectors[2::3, 0] += 3.0
    labels = pd.DataFrame({"word": words, "sense": ["a", "a", "b"] * 40})
    near, probe = accuracy(*documents(torch.from_numpy(vectors), labels, "sense", pool="last"))
    assert near.value == 1 and probe.value > 0.9 and near.chance == probe.chance == 0.5 and near.n == probe.n == 40
    near, probe = accuracy(*documents(torch.from_numpy(rng.normal(size=(120, 8))), labels, "sense", pool="last"))
    assert abs(near.value - 0.5) < 4 * 0.5 / math.sqrt(40) and abs(probe.value - 0.5) < 4 * 0.5 / math.sqrt(40)


def test_places_are_read_as_points_on_the_globe():
    rng = np.random.default_rng(0)
    at = prompt_set("places", n=300).labels
    flat = prompt.unit(at.latitude.to_numpy(), at.longitude.to_numpy())
    assert np.allclose(np.linalg.norm(flat, axis=1), 1)
    vectors = np.concatenate([flat, rng.normal(size=(300, 5))], 1)
    clear = by_name(accuracy(*documents(torch.from_numpy(vectors), at, "place", pool="last")))
    assert clear["R2 of new cities at 1.resid"].value > 0.999
    assert clear["error for new countries at 1.resid"].value < 100
    chance = clear["error for new cities at 1.resid"].chance
    mean = flat.mean(0) / np.linalg.norm(flat.mean(0))
    assert chance == pytest.approx(np.mean([6371.0088 * math.acos(p @ mean) for p in flat]), rel=1e-6)
    blind = by_name(accuracy(*documents(torch.from_numpy(rng.normal(size=(300, 8))), at, "place", pool="last")))
    assert abs(blind["R2 of new cities at 1.resid"].value) < 0.1
    assert blind["error for new cities at 1.resid"].value == pytest.approx(chance, rel=0.1)


# On the real model.


@pytest.mark.smollm2
def test_answers_are_single_tokens_of_the_default_subject():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(offline.folder("smollm2-135m") / "tokenizer.json"))

    def size(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    for name in ANSWERS:
        found = prompt_set(name, n=100)
        every = {answer for group in found.right + found.wrong for answer in group}
        assert not [answer for answer in every if size(answer) != 1], name
        joined = [(text, answer[0]) for text, answer in zip(found.texts, found.right, strict=True)]
        if name != "acronym":  # two letters and the third may share a token when they are written at once
            assert all(size(text + answer) == size(text) + 1 for text, answer in joined), name
    for word in (*_words.nouns(), *_words.FEMALE, *_words.MALE, *prompt_set("polysemous", n=600).labels.word):
        assert size(f" {word}") == 1, word
    for text in prompt_set("induction_text", n=50, length=15).texts:
        ids = tokenizer.encode(text).ids
        assert ids[:15] == ids[15:] and len(ids) == 30
    for text, word in zip(*(lambda f: (f.texts, f.labels.word))(prompt_set("first_letters", n=50)), strict=True):
        assert tokenizer.decode([tokenizer.encode(text).ids[-6]]) == f" {word}"


@pytest.mark.smollm2
def test_the_default_subject_does_ioi_and_greater_than():
    from workbench import Subject

    subject = Subject("smollm2-135m")
    for name in ("ioi", "greater_than"):
        scores = by_name(accuracy(prompt_set(name, n=32), subject))
        assert scores["right beats wrong"].value >= 0.9
        assert scores["logit difference"].low > 0
