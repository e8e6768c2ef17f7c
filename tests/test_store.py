"""A store gives back every row, once, where it came from; nothing that is not whole opens."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from fake_subject import BOS, FakeSubject, documents, vectors

from workbench import lineage
from workbench.batch import Exclusion, Stream
from workbench.harvest import Store, collect
from workbench.harvest.store import Shard
from workbench.harvest.tokens import Dropped, cuts, rows_of, stacked
from workbench.site import Site

TEXTS = documents()
OPTIONS = {"length": 16, "min_length": 4, "batch": 4, "shard_rows": 100, "quiet": True, "calibrate": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "one"
    return collect(FakeSubject(), TEXTS, ["1.resid", "0.resid", "1.mlp_out"], rows=900, folder=folder, **OPTIONS)


@pytest.fixture
def copy(store, tmp_path):
    shutil.copytree(store.folder, tmp_path / "copy")
    return tmp_path / "copy"


# Token rows


def test_no_row_holds_two_documents_and_no_token_is_lost():
    subject, dropped = FakeSubject(), Dropped()
    rows = list(rows_of(subject, TEXTS, length=16, min_length=4, seed=0, dropped=dropped))
    pieces = {i: [] for i in range(len(TEXTS))}
    for row in rows:
        assert row.ids[0] == BOS, "each row begins as the tokenizer begins a text"
        assert row.mask.tolist() == [True] * int(row.mask.sum()) + [False] * (16 - int(row.mask.sum()))
        pieces[row.text].append(row.ids[1:][row.mask[1:]].tolist())
    kept = 0
    for i, text in enumerate(TEXTS):
        ids = subject.tokenize(text).ids[0, 1:].tolist()
        whole = [ids[at : at + 15] for at in range(0, len(ids), 15)]
        wanted = [piece for piece in whole if len(piece) + 1 >= 4]
        assert sorted(pieces[i]) == sorted(wanted)
        kept += sum(map(len, wanted))
    assert dropped.tokens == sum(len(text.split()) for text in TEXTS) - kept
    assert dropped.remainders > 0


def test_a_longer_run_of_token_rows_begins_like_a_shorter_one_and_the_seed_decides():
    def first(n, seed):
        rows = rows_of(FakeSubject(), TEXTS, length=16, min_length=4, seed=seed)
        return stacked([next(rows) for _ in range(n)]).ids

    assert torch.equal(first(40, 0)[:10], first(10, 0))
    assert not torch.equal(first(10, 0), first(10, 1))


def test_any_stretch_is_spread_over_the_corpus():
    rows = rows_of(FakeSubject(), documents(200, low=60, high=61), length=16, min_length=4, seed=0)
    assert len({next(rows).text for _ in range(64)}) > 30


def test_long_documents_are_cut_at_white_space_and_nothing_is_lost():
    text = " ".join(f"word{i}" for i in range(5000))
    parts = [text[a:b] for a, b in cuts(text, 1000)]
    assert "".join(parts) == text
    assert all(len(p) <= 1000 for p in parts)
    assert [w for p in parts for w in p.split()] == text.split()
    assert [b - a for a, b in cuts("x" * 2500, 1000)] == [1000, 1000, 500], "no white space: cut anywhere"
    assert cuts(" " * 50, 1000) == []


# Rows


def test_every_row_is_what_the_subject_gives_at_its_text_and_position(store):
    rows = torch.arange(store.rows)
    text, pos = store.where(rows)
    for site in store.sites:
        wanted = vectors(store.tokens, site)[text, pos]
        assert torch.equal(store.gather(rows, site), wanted)
    assert store.rows == 900 and store.gather(rows, "1.mlp_out").shape == (900, 3)
    assert (pos > 0).all(), "the first position is excluded"


def test_rows_come_in_any_order_and_more_than_once(store):
    rows = torch.randint(0, store.rows, (500,))
    assert torch.equal(store.gather(rows, "0.resid"), store.gather(torch.arange(900), "0.resid")[rows])
    assert store.gather(rows[:0], "0.resid").shape == (0, 6)
    for bad in (-1, 900):
        with pytest.raises(IndexError, match=r"rows are 0\.\.899, got"):
            store.gather(torch.tensor([0, bad]), "0.resid")


@pytest.mark.parametrize("size", [1, 7, 64, 900, 5000])
def test_an_epoch_holds_every_row_exactly_once(store, size):
    everything = store.gather(torch.arange(store.rows), "1.resid")
    stored = list(store.batches(size, site="1.resid"))
    assert torch.equal(torch.cat([b.x for b in stored]), everything)
    shuffled = list(store.batches(size, site="1.resid", seed=3))
    assert [len(b.x) for b in shuffled] == [len(b.x) for b in stored]
    where = torch.cat([b.text * 16 + b.pos for b in shuffled])
    assert len(where.unique()) == store.rows
    x = torch.cat([b.x for b in shuffled])
    assert not torch.equal(x, everything)
    assert torch.equal(x[where.argsort()], everything), "stored order is text by text"


def test_a_shuffle_reaches_across_the_whole_store(store):
    first = next(iter(store.batches(90, site="1.resid", seed=0)))
    assert first.text.max() - first.text.min() > 0.8 * len(store.texts)


def test_batches_hold_one_site_or_several_side_by_side_and_a_target(store):
    batch = next(iter(store.batches(5, site=["0.resid", "1.resid"], target="1.mlp_out", seed=0)))
    assert batch.x.shape == (5, 2, 6) and batch.y.shape == (5, 3)
    assert torch.equal(batch.x[:, 1], vectors(store.tokens, Site(1, "resid"))[batch.text, batch.pos])
    assert torch.equal(batch.y, vectors(store.tokens, Site(1, "mlp_out"))[batch.text, batch.pos])
    one = next(iter(store.batches(5, site="0.resid")))
    assert one.y is one.x and one.x.dtype == torch.float32
    with pytest.raises(ValueError, match="one width"):
        store.batches(5)
    with pytest.raises(ValueError, match="the store holds 1.resid, 0.resid, 1.mlp_out, not 7.resid"):
        store.batches(5, site="7.resid")


def test_a_stream_resumes_at_any_step_across_epochs(store):
    stream = store.stream(128, site="1.resid", target="0.resid", epochs=2.5, seed=5)
    assert isinstance(stream, Stream) and len(stream) == int(2.5 * 900) // 128
    whole = list(stream.batches())
    assert all(len(b.x) == 128 for b in whole)
    for start in (0, 1, 6, 7, 8, len(stream)):
        rest = list(stream.batches(start))
        assert len(rest) == len(stream) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.pos, b.pos)
    where = torch.cat([b.text * 16 + b.pos for b in whole])
    first, second = where[:900], where[900:1800]
    assert len(first.unique()) == len(second.unique()) == 900 and not torch.equal(first, second)
    epoch = torch.cat([b.text * 16 + b.pos for b in store.batches(50, site="1.resid", seed=5)])
    assert torch.equal(epoch, first)
    json.dumps(stream.describe())
    other = replace(stream, seed=6)
    assert other.describe() != stream.describe() and not torch.equal(next(other.batches()).x, whole[0].x)


def test_a_left_iterator_leaves_no_thread(store):
    batches = store.batches(10, site="0.resid")
    next(batches)
    assert any(t.name.startswith("store") for t in threading.enumerate())
    batches.close()
    assert not any(t.name.startswith("store") for t in threading.enumerate())


def test_an_error_in_the_reading_thread_reaches_the_reader(store, copy):
    view = Store.open(copy)
    view._shards[0]._tensors.pop("1.resid")
    with pytest.raises(KeyError):
        list(view.batches(10, site="1.resid"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "at least one row"),
        ({"size": 901}, "choose a smaller size"),
        ({"steps": 0}, "at least one step"),
        ({"steps": 3, "epochs": 1}, "not both"),
    ],
)
def test_bad_streams_are_refused(store, change, said):
    with pytest.raises(ValueError, match=said):
        store.stream(change.pop("size", 10), site="0.resid", **change)


# Parts


def test_a_split_shares_no_document_and_loses_no_row(store):
    train, test = store.split(test=0.2, seed=1)
    assert not set(train.texts.tolist()) & set(test.texts.tolist())
    assert train.rows + test.rows == store.rows and len(train.texts) + len(test.texts) == len(store.texts)
    assert 0.2 <= test.rows / store.rows < 0.35
    for part in (train, test):
        rows = torch.arange(part.rows)
        text, pos = part.where(rows)
        assert text.unique().tolist() == list(range(len(part.texts)))
        assert torch.equal(part.gather(rows, "1.resid"), vectors(part.tokens, Site(1, "resid"))[text, pos])
        assert len({(int(t), int(p)) for t, p in zip(text, pos, strict=True)}) == part.rows
        batch = next(part.batches(20, site="0.resid", seed=0))
        assert torch.equal(batch.x, vectors(part.tokens, Site(0, "resid"))[batch.text, batch.pos])
        named = part.labels.iloc[part.texts.numpy()]["title"]
        assert list(named) == [f"text {i}" for i in part.texts.tolist()]
    again = store.split(test=0.2, seed=1)
    assert [p.hash for p in again] == [train.hash, test.hash]
    assert len({store.hash, train.hash, test.hash, store.split(test=0.2, seed=2)[0].hash}) == 4


def test_a_split_that_would_leak_or_be_empty_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="leak"):
        store.split(by="row")
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            store.split(test=share)
    with pytest.raises(ValueError, match="split the whole store"):
        store.split()[0].split()
    one = collect(FakeSubject(), TEXTS[:1], "0.resid", rows=None, folder=tmp_path / "s", **OPTIONS)
    with pytest.raises(ValueError, match="two documents"):
        one.split()
    assert all(p.rows for p in store.split(test=0.99)), "at least one document is left to train on"


@pytest.mark.parametrize("part", ["whole", "train", "test"])
def test_statistics_equal_torch(store, part):
    view = {"whole": store, **dict(zip(("train", "test"), store.split(), strict=True))}[part]
    for site in ("0.resid", "1.mlp_out"):
        x = view.gather(torch.arange(view.rows), site).double()
        torch.testing.assert_close(view.mean(site), x.mean(0).float())
        torch.testing.assert_close(view.variance(site), x.var(0).float())
        assert view.median_norm(site) == float(x.float().norm(dim=-1).median())


def test_variance_does_not_cancel_when_the_mean_is_large(store, monkeypatch):
    monkeypatch.setattr("workbench.harvest.store.BLOCK", 37)
    monkeypatch.setattr(Store, "gather", lambda self, rows, site: 1e4 + (rows[:, None] % 5).float().expand(-1, 6))
    view = Store.open(store.folder)
    x = 1e4 + (torch.arange(900) % 5).double()
    torch.testing.assert_close(view.variance("0.resid"), x.var().float().expand(6))


def test_the_share_excluded_counts_positions_by_hand(store):
    tokens = store.tokens
    last_text, last_pos = store.where(torch.tensor([store.rows - 1]))
    seen = tokens.mask.clone()
    seen[last_text, int(last_pos) + 1 :] = False  # the harvest stopped here
    assert store.share_excluded == pytest.approx(1 - store.rows / int(seen.sum()))
    assert store.manifest["share_excluded"] == pytest.approx(store.share_excluded)
    counts = store.manifest["excluded"]
    assert counts["by_token"] == len(store.texts), "BOS, which is also the first position"
    train, test = store.split()
    assert train.share_excluded != test.share_excluded
    assert store.exclusion.medians.keys() == {"0.resid", "1.resid", "1.mlp_out"}


# Files


def test_a_store_is_read_by_others_as_safetensors(store):
    from safetensors.torch import load_file

    theirs = load_file(store.folder / "00001.safetensors")
    ours = Shard(store.folder / "00001.safetensors")
    assert {"ids", "mask", "texts", "kept", "excluded", "text", "pos", "token", "1.resid"} < theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    text, pos = theirs["text"].long(), theirs["pos"].long()
    assert torch.equal(theirs["token"].long(), store.tokens.ids[text, pos])


@pytest.mark.parametrize("file", ["manifest.json", "labels.parquet", "00000.safetensors", "00003.safetensors"])
def test_a_missing_a_cut_and_a_grown_file_are_noticed(copy, file):
    whole = (copy / file).read_bytes()
    for bytes_ in (whole[:-1], whole + b" ", whole[: len(whole) // 2], b""):
        (copy / file).write_bytes(bytes_)
        with pytest.raises(ValueError, match=f"{file} is damaged"):
            Store.open(copy, verify=file != "manifest.json")
    (copy / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file}"):
        Store.open(copy)


def test_a_file_that_is_not_of_the_store_is_noticed(copy):
    (copy / "00099.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds '00099.safetensors', which is not of this store"):
        Store.open(copy)


def test_a_header_that_lies_is_refused_even_unverified(copy):
    path = copy / "00000.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def put(value):
        text = json.dumps(value, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length
        path.write_bytes(data[:8] + text + data[8 + length :])

    swapped = header | {"1.resid": header["1.resid"] | {"shape": header["1.resid"]["shape"][::-1]}}
    put(swapped)
    assert Shard(path)["1.resid"].shape == tuple(swapped["1.resid"]["shape"])  # a shape of equal size needs the SHA-256
    with pytest.raises(ValueError, match="SHA-256"):
        Store.open(copy)
    begin, end = header["1.resid"]["data_offsets"]
    for lie in ({"data_offsets": [begin + 4, end]}, {"shape": [1, 1]}, {"dtype": "F9"}, {"data_offsets": 7}):
        put(header | {"1.resid": header["1.resid"] | lie})
        with pytest.raises(ValueError, match="is damaged"):
            Store.open(copy, verify=False)
    path.write_bytes(b"\xff" * 8 + data[8:])
    with pytest.raises(ValueError, match="header"):
        Store.open(copy, verify=False)


def test_other_formats_and_unfinished_harvests_do_not_open(copy):
    manifest = lineage.read_json(copy / "manifest.json")
    lineage.write_json(copy / "manifest.json", manifest | {"format": 0})
    with pytest.raises(ValueError, match="format 0, wanted 1"):
        Store.open(copy)
    lineage.write_json(copy / "manifest.json", manifest | {"state": "partial"})
    with pytest.raises(FileNotFoundError, match="cut short at 900 rows"):
        Store.open(copy)
    with pytest.raises(FileNotFoundError, match=r"has no manifest.json: collect"):
        Store.open(copy / "nothing")


def test_the_manifest_says_what_was_asked_of_whom(store):
    m = store.manifest
    assert m["subject"] == {"name": "fake", "fingerprint": FakeSubject().fingerprint}
    assert (
        m["call"]["rows"] == 900
        and m["call"]["seed"] == 0
        and m["sites"]
        == {
            "1.resid": 6,
            "0.resid": 6,
            "1.mlp_out": 3,
        }
    )
    assert m["versions"]["torch"] and m["corpus"]["texts"] == len(TEXTS)
    assert Exclusion.from_json(m["exclusion"]) == store.exclusion
    assert "900 rows" in repr(store) and "test part" in repr(store.split()[1])
