"""A harvest is made once, exactly, and survives whatever stops it."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_subject import FakeSubject, documents, forked, heard, vectors
from models import tiny_llama, tiny_tokenizer

from workbench import lineage
from workbench.batch import Exclusion, Tokens
from workbench.harvest import Store, collect
from workbench.harvest.corpora import corpus
from workbench.harvest.store import Shard
from workbench.harvest.tokens import rows_of, stacked
from workbench.site import Site
from workbench.subject import Subject

TEXTS = documents()
OPTIONS = {"rows": 700, "length": 16, "min_length": 4, "batch": 4, "shard_rows": 100, "quiet": True, "calibrate": 8}


def gather(folder, subject=None, **change):
    return collect(subject or FakeSubject(), TEXTS, ["0.resid", "1.resid"], folder=folder, **(OPTIONS | change))


def hashes(folder):
    return {p.name: lineage.file_hash(p) for p in sorted(Path(folder).iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "store"
    gather(folder)
    return hashes(folder)


# Once


def test_the_same_call_opens_what_is_there(tmp_path, whole):
    gather(tmp_path / "s")
    subject = FakeSubject()
    store = gather(tmp_path / "s", subject)
    assert subject.reads == 0 and store.rows == 700 and hashes(tmp_path / "s") == whole


def test_without_a_folder_the_cache_holds_it_by_its_call(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    one, other = gather(None), gather(None, seed=1)
    assert one.folder.parent == tmp_path / "stores" and one.folder != other.folder
    again = FakeSubject()
    assert gather(None, again).hash == one.hash and again.reads == 0
    assert gather(None, FakeSubject(bos=False)).folder != one.folder


@pytest.mark.parametrize("change", [{"seed": 1}, {"rows": 500}, {"length": 12}, {"dtype": "bfloat16"}])
def test_another_call_never_overwrites(tmp_path, whole, change):
    gather(tmp_path / "s")
    name, value = next(iter(change.items()))
    with pytest.raises(FileExistsError, match=rf"holds another harvest \({name} .*not '?{value}"):
        gather(tmp_path / "s", **change)
    assert hashes(tmp_path / "s") == whole


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        gather(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_two_processes_that_ask_at_once_make_it_once(tmp_path, whole):
    log = tmp_path / "reads"

    def said():
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def work(err):
        with err.open("w", buffering=1) as sys.stderr:
            return str(gather(tmp_path / "s", FakeSubject(said=said), quiet=False).rows)

    children = [forked(lambda i=i: work(tmp_path / f"err{i}")) for i in range(2)]
    assert [heard(*child) for child in children] == ["700", "700"]
    alone = FakeSubject()
    gather(tmp_path / "alone", alone)
    assert len(log.read_text().split()) == alone.reads and len(set(log.read_text().split())) == 1
    assert hashes(tmp_path / "s") == whole
    assert sum("waiting for it" in (tmp_path / f"err{i}").read_text() for i in range(2)) == 1


# Whatever stops it


def test_stopped_at_any_batch_it_goes_on_to_the_same_bytes(tmp_path, whole):
    counter = FakeSubject()
    gather(tmp_path / "alone", counter)
    for stop in range(counter.reads):
        folder = tmp_path / str(stop)

        def spoil(n, h, stop=stop):
            if n == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            gather(folder, FakeSubject(spoil=spoil))
        with pytest.raises(FileNotFoundError, match="cut short"):
            Store.open(folder)
        rest = FakeSubject()
        gather(folder, rest)
        assert hashes(folder) == whole, f"stopped at batch {stop}"
        assert rest.reads <= counter.reads
    assert rest.reads < counter.reads / 2, "shards that were whole are not made again"


def test_stopped_at_any_write_it_goes_on_to_the_same_bytes(tmp_path, whole, monkeypatch):
    real, count = lineage.write, 0

    def stopping(at):
        def write(path, fill):
            nonlocal count
            count += 1
            if count == at:
                raise OSError(errno.EIO, "unplugged")
            return real(path, fill)

        return write

    monkeypatch.setattr(lineage, "write", stopping(-1))
    gather(tmp_path / "alone")
    writes = count
    for at in range(1, writes + 1):
        count = 0
        monkeypatch.setattr(lineage, "write", stopping(at))
        with pytest.raises(OSError, match="unplugged"):
            gather(tmp_path / str(at))
        monkeypatch.setattr(lineage, "write", real)
        gather(tmp_path / str(at))
        assert hashes(tmp_path / str(at)) == whole, f"stopped at write {at} of {writes}"


def test_killed_before_the_last_word_nothing_is_added_twice(tmp_path):
    def ask(subject):
        return gather(tmp_path / "s", subject, rows=None, batch=7, shard_rows=500)

    store = ask(FakeSubject(spoil=planted))
    assert store.manifest["texts"] % 7 and store.manifest["excluded"]["by_norm"], (
        "the last batch is short, rows are few"
    )
    before = hashes(tmp_path / "s")
    manifest = {k: v for k, v in store.manifest.items() if k != "dropped"} | {"state": "partial"}
    lineage.write_json(tmp_path / "s" / "manifest.json", manifest)
    rest = FakeSubject(spoil=planted)
    ask(rest)
    assert rest.reads == 0 and hashes(tmp_path / "s") == before


def test_what_a_kill_leaves_half_written_goes_away(tmp_path, whole):
    def spoil(n, h):
        if n == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "s", FakeSubject(spoil=spoil))
    shards = len(lineage.read_json(tmp_path / "s" / "manifest.json")["shards"])
    (tmp_path / "s" / ".manifest.json.abc.part").write_bytes(b"half")
    (tmp_path / "s" / f"{shards:05d}.safetensors").write_bytes(b"whole, but not noted yet")
    gather(tmp_path / "s")
    assert hashes(tmp_path / "s") == whole


@pytest.mark.parametrize("which", ["00001.safetensors", "00000.safetensors", "labels.parquet"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_shard_damaged_while_the_harvest_lay_open_is_made_again(tmp_path, whole, which, gone, capsys):
    def spoil(n, h):
        if n == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "s", FakeSubject(spoil=spoil))
    path = tmp_path / "s" / which
    if gone:
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    gather(tmp_path / "s", quiet=False)
    assert hashes(tmp_path / "s") == whole
    if which != "labels.parquet":
        assert f"{which} is missing or damaged: made again from there" in capsys.readouterr().err


def test_a_stranger_in_an_open_harvest_is_named(tmp_path):
    def spoil(n, h):
        if n == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "s", FakeSubject(spoil=spoil))
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="'notes.txt', which is not of this store"):
        gather(tmp_path / "s")


def test_a_full_disk_says_one_line_and_keeps_the_finished_shards(tmp_path):
    def one_site(folder, subject):
        return collect(subject, TEXTS, "0.resid", folder=folder, **OPTIONS)

    def limited(folder, limit):
        """The error line of a child whose files may not grow beyond `limit` bytes."""

        def work():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return one_site(folder, FakeSubject()).hash

        return heard(*forked(work))

    counter = FakeSubject()
    one_site(tmp_path / "alone", counter)
    sizes = [p.stat().st_size for p in (tmp_path / "alone").glob("*.safetensors")]
    manifests = (tmp_path / "alone" / "manifest.json").stat().st_size
    assert manifests > max(sizes), "the manifest grows past the limit after some shards"
    said = limited(tmp_path / "s", manifests - 500)
    assert "\n" not in said and f"OSError [Errno {errno.EFBIG}]" in said
    assert "the disk is full" in said and "make room and call again" in said
    left = lineage.read_json(tmp_path / "s" / "manifest.json")
    assert left["state"] == "partial" and len(left["shards"]) > 2
    assert f"keeps {left['rows']} rows in {len(left['shards'])} whole shards" in said
    assert not list((tmp_path / "s").glob("*.part")) and not list((tmp_path / "s").glob(".*.part"))
    rest = FakeSubject()
    one_site(tmp_path / "s", rest)
    assert hashes(tmp_path / "s") == hashes(tmp_path / "alone") and rest.reads < counter.reads
    assert "keeps 0 rows" in limited(tmp_path / "tiny", 200)


def test_a_disk_too_small_is_noticed_before_anything_is_read(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    subject = FakeSubject()
    with pytest.raises(OSError, match=r"would take 0\.00 GB.*free"):
        gather(tmp_path / "s", subject)
    assert subject.reads == 0


# What is kept


def planted(n, h):
    """Massive activations at position 5 of every text, at one site only."""
    h[Site(1, "resid")][:, 5] *= 1000


def test_the_norm_rule_leaves_out_a_position_at_every_site_and_counts_it(tmp_path):
    store = gather(tmp_path / "s", FakeSubject(spoil=planted))
    _, pos = store.where(torch.arange(store.rows))
    assert store.rows == 700 and not (pos == 5).any() and (pos == 4).any()
    counts = store.manifest["excluded"]
    last_text, last_pos = store.where(torch.tensor([699]))
    full = store.tokens.mask[:, 5].sum() - int(last_pos < 5)
    assert counts == {"by_token": len(store.texts), "by_norm": int(full)}
    assert store.share_excluded == pytest.approx(sum(counts.values()) / (sum(counts.values()) + 700))
    every = gather(tmp_path / "all", FakeSubject(spoil=planted), exclusion=Exclusion(norm=None))
    assert (every.where(torch.arange(700))[1] == 5).any() and every.exclusion.medians == {}


def test_medians_are_those_of_the_first_token_rows(tmp_path):
    store = gather(tmp_path / "s", FakeSubject(spoil=planted))
    drawn = rows_of(FakeSubject(), TEXTS, length=16, min_length=4, seed=0)
    tokens = stacked([next(drawn) for _ in range(8)])
    keep = tokens.mask & (tokens.positions > 0)
    h = {site: vectors(tokens, site) for site in store.sites}
    planted(0, h)
    for site in store.sites:
        assert store.exclusion.medians[str(site)] == float(h[site].norm(dim=-1)[keep].median())


def test_given_medians_are_used_and_the_rest_measured(tmp_path):
    rule = Exclusion(norm=1.0, medians={"0.resid": 1e-3})
    with pytest.raises(ValueError, match="leaves no row"):
        gather(tmp_path / "none", exclusion=rule)
    rule = Exclusion(medians={"0.resid": 1e6})
    store = gather(tmp_path / "s", exclusion=rule)
    assert store.exclusion.medians["0.resid"] == 1e6 and 0 < store.exclusion.medians["1.resid"] < 1e6


def test_the_subjects_own_rule_is_the_default(tmp_path):
    subject = FakeSubject()
    subject.exclusion = Exclusion(first=False, special=False, norm=None)
    assert (gather(tmp_path / "s", subject).where(torch.arange(16))[1] == 0).any()


def test_a_smaller_harvest_is_the_beginning_of_a_larger_one(tmp_path):
    small, large = gather(tmp_path / "a", rows=123), gather(tmp_path / "b", rows=456)
    rows = torch.arange(123)
    assert small.rows == 123 and large.rows == 456
    assert torch.equal(small.gather(rows, "1.resid"), large.gather(rows, "1.resid"))
    assert torch.equal(small.tokens.ids, large.tokens.ids[: len(small.texts)])


def test_rows_none_takes_all_and_a_corpus_too_small_is_told_beforehand(tmp_path):
    everything = gather(tmp_path / "all", rows=None)
    rows = list(rows_of(FakeSubject(), TEXTS, length=16, min_length=4, seed=0))
    assert everything.rows == sum(int(r.mask.sum()) - 1 for r in rows)
    assert everything.manifest["dropped"]["tokens"] == sum(len(t.split()) for t in TEXTS) - everything.rows
    subject = FakeSubject()
    with pytest.raises(
        ValueError, match=rf"the corpus has {everything.rows:,} rows .*9,999 were asked: pass rows=None"
    ):
        gather(tmp_path / "more", subject, rows=9_999)
    assert subject.reads == 0 and not (tmp_path / "more").exists()


def test_a_norm_rule_that_eats_into_the_corpus_ends_with_fewer_rows_and_says_so(tmp_path, capsys):
    everything = gather(tmp_path / "all", rows=None).rows
    store = gather(tmp_path / "s", FakeSubject(spoil=planted), rows=everything, quiet=False)
    assert store.rows < everything
    assert f"the corpus ended at {store.rows:,} of {everything:,} rows" in capsys.readouterr().err
    again = FakeSubject(spoil=planted)
    assert gather(tmp_path / "s", again, rows=everything).hash == store.hash and again.reads == 0


@pytest.mark.parametrize(("dtype", "stored"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_the_dtype_on_disk_is_the_subjects_and_loses_nothing(tmp_path, dtype, stored):
    store = gather(tmp_path / "s", FakeSubject(dtype=dtype))
    text, pos = store.where(torch.arange(700))
    wanted = vectors(store.tokens, Site(1, "resid"))[text, pos].to(dtype).float()
    assert torch.equal(store.gather(torch.arange(700), "1.resid"), wanted)
    assert Shard(store.folder / "00000.safetensors")["1.resid"].dtype == dtype
    assert store.manifest["call"]["dtype"] == stored


def test_float16_is_refused_where_it_would_overflow(tmp_path):
    with pytest.raises(OverflowError, match=r"0\.resid reaches .*float16 holds 65504: choose bfloat16 or float32"):
        gather(tmp_path / "s", dtype="float16")
    small = FakeSubject(spoil=lambda n, h: [v.div_(1e4) for v in h.values()])
    store = gather(tmp_path / "t", small, dtype="float16")
    text, pos = store.where(torch.arange(700))
    wanted = (vectors(store.tokens, Site(0, "resid"))[text, pos] / 1e4).half().float()
    assert torch.equal(store.gather(torch.arange(700), "0.resid"), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name_and_what_was_whole_is_kept(tmp_path, value):
    def spoil(n, h):
        if n == 10:
            h[Site(1, "resid")][2, 7, 3] = value

    with pytest.raises(FloatingPointError, match=rf"1\.resid is {value} at position 7 of a token row of text \d+"):
        gather(tmp_path / "s", FakeSubject(spoil=spoil))
    assert lineage.read_json(tmp_path / "s" / "manifest.json")["rows"] > 300
    huge = FakeSubject(spoil=lambda n, h: h[Site(0, "resid")][:, 2].fill_(1e30))
    gather(tmp_path / "huge", huge)  # finite, though its square is not: the norm rule's business


def test_padding_may_hold_anything(tmp_path):
    tokens = Tokens(torch.arange(2, 34).view(4, 8), torch.ones(4, 8, dtype=torch.bool))
    tokens.mask[1, :3] = False

    def spoil(n, h):
        h[Site(0, "resid")][h[Site(0, "resid")][..., 0] == 0] = torch.nan

    store = collect(FakeSubject(spoil=spoil), tokens, "0.resid", rows=None, folder=tmp_path / "s", quiet=True)
    assert store.rows == 3 * 7 + 4, "the first real token of the padded row is its first position"
    assert store.texts.sort().values.tolist() == [0, 1, 2, 3]


# Bad calls


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": "9.resid"}, "fake has no site 9.resid"),
        ({"sites": "resid"}, "a site reads `12.resid`"),
        ({"sites": []}, "one site or several different ones"),
        ({"sites": ["0.resid", "0.resid"]}, "several different ones, got '0.resid, 0.resid'"),
        ({"texts": []}, "empty"),
        ({"texts": ["  "]}, "nothing in it"),
        ({"texts": ["two words"]}, "the corpus has 0 rows"),
        ({"texts": ["two words"], "rows": None}, "texts are shorter than min_length=4"),
        ({"texts": "nowhere"}, "is no corpus and no path"),
        ({"rows": 0}, "rows must be 1 or more"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"calibrate": 0}, "calibrate must be 1 or more"),
        ({"min_length": 17}, "min_length must be between 2 and length=16"),
        ({"length": 1, "min_length": 1}, "min_length must be between 2 and length=1"),
        ({"dtype": "int8"}, "float32, bfloat16 or float16, got 'int8'"),
    ],
)
def test_bad_calls_say_what_was_wanted_and_leave_nothing(tmp_path, change, said):
    options = {"texts": TEXTS, "sites": "0.resid", "folder": tmp_path / "s"} | OPTIONS | change
    subject = FakeSubject()
    with pytest.raises(ValueError, match=said) as error:
        collect(subject, options.pop("texts"), options.pop("sites"), **options)
    assert "\n" not in str(error.value) and subject.reads == 0 and not (tmp_path / "s").exists()


@pytest.mark.torture
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been_and_no_flipped_byte_opens():
    script = Path(__file__).parent / "torture_harvest.py"
    call = [sys.executable, str(script), "--kills", "10", "--flips", "100", "--only", "harvest"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "harvest: kills: 10\n" in done.stdout and "harvest: noticed: 100\n" in done.stdout


# With a real model


@pytest.mark.parametrize("bos", [True, False])
def test_a_real_model_read_again_gives_the_stored_rows(tmp_path, bos):
    subject = Subject(tiny_llama(), tiny_tokenizer(bos=bos))
    words = torch.randint(1, 90, (12, 60), generator=torch.Generator().manual_seed(0)).tolist()
    texts = corpus([" ".join(f"w{w}" for w in row) for row in words])
    sites = ["2.mlp_out", "0.attn_in", "1.resid", "embed", "1.heads"]
    store = collect(subject, texts, sites, rows=400, length=16, min_length=4, folder=tmp_path / "s", quiet=True)
    text, pos = store.where(torch.arange(400))
    assert bool((store.tokens.ids[:, 0] == 1).all()) is bos
    for begin in range(0, len(store.texts), 8):
        these = (text >= begin) & (text < begin + 8)
        h = subject.read(store.tokens.rows(slice(begin, begin + 8)), sites)
        for site in store.sites:
            got = store.gather(these.nonzero()[:, 0], site)
            torch.testing.assert_close(got, h[site][text[these] - begin, pos[these]], atol=1e-5, rtol=1e-5)
    assert store.manifest["subject"]["fingerprint"] == subject.fingerprint


def test_the_last_calibration_batch_may_be_shorter(tmp_path):
    ids = torch.arange(10, 66).view(7, 8)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    store = collect(FakeSubject(), tokens, "0.resid", rows=None, batch=4, folder=tmp_path / "s", quiet=True)
    norms = vectors(tokens, Site(0, "resid"))[:, 1:].norm(dim=-1)
    assert store.exclusion.medians["0.resid"] == pytest.approx(float(norms.median()))
