"""Neuronpedia's files become labels: the exports' batches, the API's answers, and features with explanations inside."""

import gzip
import json

import pytest

from workbench.interpret import neuronpedia

GPT, CLAUDE = {"explanationModelName": "gpt-4o-mini"}, {"explanationModelName": "claude-3-5-haiku"}


def record(index, text, layer="8-res-jb", **more):
    said = {"id": f"x{index}", "modelId": "gpt2-small", "layer": layer, "index": index, "description": text}
    return said | {"authorId": "a", "typeName": "oai_token-act-pair", "notes": None, "embedding": "[0.1]"} | GPT | more


RECORDS = [record("0", "  names of\n months "), record(2, "dogs", **CLAUDE), record("2", "pets"), record("5", "")]
FEATURE = {
    "modelId": "gpt2-small",
    "layer": "8-res-jb",
    "index": "14057",
    "pos_str": [" years"],
    "activations": [{"tokens": ["a"], "values": [1.0]}],
    "explanations": [
        {"description": "numbers of years", "typeName": "oai_token-act-pair", "scores": [{"value": 0.7}], **GPT},
        {"description": "ages", "typeName": "np_acts-logits-general", **CLAUDE},
    ],
}


def lines(records):
    return "\n".join(json.dumps(r) for r in records) + "\n"


def forms(folder):
    """The same explanations in every form that is found."""
    (folder / "batch-0.jsonl").write_text(lines(RECORDS))
    (folder / "export.json").write_text(json.dumps(RECORDS))
    (folder / "old.json").write_text(json.dumps({"explanations": RECORDS}))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines(RECORDS).encode()))
    (folder / "packed.json.gz").write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    features = [{"index": str(i), "explanations": [r for r in RECORDS if int(r["index"]) == i]} for i in range(6)]
    (folder / "features.jsonl").write_text(lines(features))
    return sorted(folder.iterdir())


def test_every_form_gives_the_first_text_of_each_latent(tmp_path):
    for path in forms(tmp_path):
        assert neuronpedia.labels(path) == {0: "names of months", 2: "dogs"}, path


def test_a_feature_brings_its_explanations(tmp_path):
    path = tmp_path / "feature.json"
    path.write_text(json.dumps(FEATURE))
    assert neuronpedia.labels(path) == {14057: "numbers of years"}
    assert neuronpedia.labels(path, explainer="claude-3-5-haiku") == {14057: "ages"}
    assert neuronpedia.labels(path, kind="np_acts-logits-general") == {14057: "ages"}
    source = "gpt2-small/8-res-jb"
    assert neuronpedia.explanations(path) == [
        (14057, "numbers of years", source, "gpt-4o-mini", "oai_token-act-pair"),
        (14057, "ages", source, "claude-3-5-haiku", "np_acts-logits-general"),
    ]


def test_a_folder_is_read_in_the_order_of_its_batches(tmp_path):
    for i, text in ((10, "third"), (2, "second"), (0, "first")):
        (tmp_path / f"batch-{i}.jsonl").write_text(lines([record("7", text)]))
    (tmp_path / "README.md").write_text("not one of them")
    assert [e.text for e in neuronpedia.explanations(tmp_path)] == ["first", "second", "third"]
    assert neuronpedia.labels(tmp_path) == {7: "first"}


def test_labels_of_several_sources_are_not_mixed(tmp_path):
    path = tmp_path / "both.jsonl"
    path.write_text(lines([record("0", "here"), record("99", "there", layer="9-res-jb")]))
    with pytest.raises(ValueError, match=r"gpt2-small/8-res-jb, gpt2-small/9-res-jb: give source="):
        neuronpedia.labels(path)
    assert neuronpedia.labels(path, source="gpt2-small/8-res-jb", latents=10) == {0: "here"}
    with pytest.raises(ValueError, match="has no source 'gemma'"):
        neuronpedia.labels(path, source="gemma")


def test_labels_of_a_larger_dictionary_are_refused(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text(lines([record("0", "a"), record("64", "b")]))
    assert len(neuronpedia.labels(path, latents=65)) == 2
    with pytest.raises(ValueError, match="latent 64, the dictionary has 64"):
        neuronpedia.labels(path, latents=64)


def test_what_nobody_wrote_is_said_with_what_there_is(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text(lines(RECORDS))
    with pytest.raises(ValueError, match="it has explainer: claude-3-5-haiku, gpt-4o-mini; kind: oai_token-act-pair"):
        neuronpedia.labels(path, explainer="gpt-5")


def test_kept_labels_are_those_that_widgets_show(tmp_path):
    from widgets.labels import Labels

    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"2": "my own name"}))
    neuronpedia.keep({0: "names of months", 2: "dogs", 3: "日本"}, path)
    shown = Labels(path)
    assert dict(shown) == {"0": "names of months", "2": "my own name", "3": "日本"} and shown[0] == "names of months"
    assert dict(Labels(neuronpedia.keep({1: "new"}, tmp_path / "fresh.json"))) == {"1": "new"}
    path.write_text("[1]")
    with pytest.raises(ValueError, match="choose another file"):
        neuronpedia.keep({0: "a"}, path)
    assert path.read_text() == "[1]"


BROKEN = {
    "empty": b"",
    "half": json.dumps(RECORDS).encode()[:-5],
    "a line cut": lines(RECORDS).encode()[:-9],
    "no text": b"\xff\xfe\x00",
    "half packed": gzip.compress(lines(RECORDS).encode())[:-12],
    "packed and damaged": gzip.compress(lines(RECORDS).encode())[:30] + b"\x00" * 40,
    "a number": b"3",
    "a list of numbers": b"[1, 2]",
    "explanations that are none": b'{"index": 1, "explanations": 3}',
    "explanations within explanations": b'{"index": 1, "explanations": [{"explanations": []}]}',
    "no index": b'[{"description": "x"}]',
    "a negative index": b'[{"index": "-1", "description": "x"}]',
    "an index that is no number": b'[{"index": "1e3", "description": "x"}]',
    "a true index": b'[{"index": true, "description": "x"}]',
    "a description that is none": b'[{"index": 1, "description": ["x"]}]',
    "a model that is none": b'[{"index": 1, "description": "x", "modelId": 4}]',
    "no explanation": b'{"index": 1, "pos_str": ["a"]}',
    "nested": b'{"index": 1, "explanations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_none_is_refused_in_a_line(tmp_path, name):
    path = tmp_path / "e.jsonl"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ValueError) as caught:
        neuronpedia.labels(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and len(text) <= 400


def test_missing_files_and_bombs(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        neuronpedia.labels(tmp_path / "none.json")
    with pytest.raises(ValueError, match="holds no explanation"):
        neuronpedia.labels(tmp_path)
    monkeypatch.setattr(neuronpedia, "LARGEST", 1000)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        neuronpedia.labels(tmp_path / "bomb.json.gz")
