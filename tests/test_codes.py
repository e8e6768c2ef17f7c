"""A code store holds exactly what the codec says of every row, by row and by latent, and survives whatever stops it."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_subject import FakeSubject, documents

from workbench import evaluate, lineage
from workbench.batch import Exclusion
from workbench.code import Code
from workbench.evaluate import Case
from workbench.harvest import Codes, Store, collect, encode
from workbench.site import Site

LATENTS, DEAD, SITE = 20, 4, Site(1, "resid")
FILES = {"batch": 50, "shard_bytes": 4000}  # several shards of several batches


@dataclass
class Plain:
    """ReLU or the k largest of a fixed linear map, in any layout."""

    layout: str = "csr"
    k: int = LATENTS
    seed: int = 9
    dtype: torch.dtype = torch.float32
    latents: int = LATENTS
    site: Site | None = SITE
    target: Site | None = SITE
    exclusion: Exclusion = field(default_factory=Exclusion)
    skip: None = None
    calls: int = 0
    stop: int = -1  # the call that is interrupted

    def dense(self, x):
        weight = torch.randn(x.shape[1], LATENTS, generator=torch.Generator().manual_seed(self.seed)).double()
        z = (x.double() @ weight).relu()  # rounded last, so that a batch's size leaves no trace
        z[:, DEAD] = 0
        z[x[:, 0] == 0] = 0
        kept = z.topk(self.k)
        return torch.zeros_like(z).scatter(1, kept.indices, kept.values).to(self.dtype)

    def encode(self, x):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        z = self.dense(x)
        if self.layout == "dense":
            return Code.dense(z)
        if self.layout == "csr":
            return Code.dense(z).to_csr()
        kept = z.topk(self.k)
        return Code.fixed(kept.indices, kept.values, LATENTS)

    def decode(self, code):
        return code.to_dense().float()[:, :6]

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def atoms(self, latents=None):
        return torch.eye(LATENTS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "s"
    sites = [SITE, "0.resid"]
    return collect(FakeSubject(), documents(), sites, rows=900, length=16, min_length=4, folder=folder, quiet=True)


@pytest.fixture(scope="module")
def z(store):
    return Plain().dense(store.gather(torch.arange(store.rows), SITE))


@pytest.fixture(scope="module")
def codes(store, tmp_path_factory):
    return encode(store, Plain(), tmp_path_factory.mktemp("codes") / "c", **FILES, quiet=True)


def hashes(folder):
    """Of all files that encoding writes."""
    files = (path for path in sorted(Path(folder).iterdir()) if not path.match("columns.*"))
    return {path.name: lineage.file_hash(path) for path in files}


# What it holds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("layout", "k"), [("csr", LATENTS), ("fixed", 3), ("dense", LATENTS)])
def test_every_row_is_what_the_codec_says_of_it(store, layout, k, dtype, tmp_path):
    codec = Plain(layout, k, dtype=dtype)
    codes = encode(store, codec, tmp_path / "c", **FILES, quiet=True)
    wanted = codec.dense(store.gather(torch.arange(store.rows), SITE))
    whole = codes.rows(slice(None))
    assert len(codes) == store.rows == len(whole) and whole.values.dtype == dtype
    assert torch.equal(whole.to_dense(), wanted)
    assert bool((whole.values != 0).all()) and codes.entries == int((wanted != 0).sum())
    assert len(codes.manifest["shards"]) > 3 or k == 3


@pytest.mark.parametrize(
    "which",
    [slice(0, 0), slice(3, 4), slice(40, 260), slice(None, None, 7), slice(-5, None), slice(880, 2000), slice(9, 3)],
)
def test_a_slice_gives_those_rows(codes, z, which):
    code = codes.rows(which)
    assert torch.equal(code.to_dense(), z[which])
    torch.testing.assert_close(code.combine(torch.eye(LATENTS)), z[which])  # needs offsets from 0


def test_rows_come_in_any_order_and_more_than_once(codes, z):
    which = torch.randint(0, len(z), (700,))
    code = codes.rows(which)
    assert torch.equal(code.to_dense(), z[which])
    assert code.values.is_contiguous() and code.indices.dtype == torch.int64
    for wrong in (torch.tensor([0, len(z)]), torch.tensor([-1])):
        with pytest.raises(IndexError, match=f"rows are 0..{len(z) - 1}"):
            codes.rows(wrong)


@pytest.mark.parametrize("size", [1000, 64, 1])
def test_batches_hold_every_row_once_with_its_place(codes, store, z, size):
    batches = list(codes.batches(size))
    assert [b.begin for b in batches] == list(range(0, len(z), size))
    assert torch.equal(torch.cat([b.code.to_dense() for b in batches]), z)
    text, pos = store.where(torch.arange(store.rows))
    assert torch.equal(torch.cat([b.text for b in batches]), text)
    assert torch.equal(torch.cat([b.pos for b in batches]), pos)


def test_a_column_is_where_the_latent_fires_and_how_much(codes, z):
    for latent in range(LATENTS):
        rows, values = codes.column(latent)
        assert rows.tolist() == z[:, latent].nonzero()[:, 0].tolist()
        assert torch.equal(values, z[rows, latent])
    assert codes.counts.tolist() == (z != 0).sum(0).tolist() and codes.counts[DEAD] == 0
    assert codes.counts.dtype == torch.int64
    np.testing.assert_allclose(codes.density, (z != 0).double().mean(0))
    with pytest.raises(IndexError, match=f"latent must be 0..{LATENTS - 1}, got {LATENTS}"):
        codes.column(LATENTS)


def test_the_index_by_latent_is_made_once_and_again_when_damaged(store, z, tmp_path):
    codes = encode(store, Plain(), tmp_path / "c", **FILES, quiet=True)
    path = tmp_path / "c" / "columns.safetensors"
    assert not path.exists()
    codes.column(0)
    made = path.stat().st_mtime_ns
    again = Codes.open(tmp_path / "c")
    again.column(3)
    assert path.stat().st_mtime_ns == made
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    rows, values = Codes.open(tmp_path / "c").column(LATENTS - 1)
    assert torch.equal(values, z[rows, LATENTS - 1])


def test_a_view_has_its_own_codes(store, z, tmp_path):
    view, test = store.split(test=0.3)
    codes = encode(view, Plain(), tmp_path / "c", **FILES, quiet=True)
    x = view.gather(torch.arange(view.rows), SITE)
    assert torch.equal(codes.rows(slice(None)).to_dense(), Plain().dense(x))
    assert torch.equal(codes.where(torch.arange(view.rows))[0], view.where(torch.arange(view.rows))[0])
    codes.check(Plain(), view)
    for other in (store, test):
        with pytest.raises(ValueError, match="holds codes of another codec, store"):
            codes.check(Plain(), other)


def test_a_dictionary_that_says_nothing_has_empty_codes(store, tmp_path):
    class Silent(Plain):
        def dense(self, x):
            return torch.zeros(len(x), LATENTS)

    codes = encode(store, Silent(), tmp_path / "c", **FILES, quiet=True)
    assert codes.entries == 0 and codes.rows(slice(5, 9)).counts().tolist() == [0] * 4
    assert [len(part) for part in codes.column(2)] == [0, 0]


def test_evals_on_codes_encode_nothing_and_score_the_same(store, tmp_path):
    view = store.split(test=0.5)[1]
    codes = encode(view, Plain(), tmp_path / "c", **FILES, quiet=True)
    plain, stored = Plain(), Plain()
    case = Case(plain, None, view, resamples=20)
    known = Case(stored, None, view, resamples=20, codes=codes)
    stored.calls = 0
    for name in ("reconstruction", "sparsity", "density"):
        wanted = evaluate.run([case], [name]).drop(columns="seconds")
        pd.testing.assert_frame_equal(evaluate.run([known], [name]).drop(columns="seconds"), wanted)
    x = view.gather(torch.arange(view.rows), SITE)
    sums = known.per_document(lambda x, y, code, y_hat: {"total": code.values.new_ones(len(code)) * code.counts()})
    assert float(sums.by["total"].sum()) == float((Plain().dense(x) != 0).sum())
    assert stored.calls == 0 < plain.calls
    with pytest.raises(ValueError, match="codes of another codec:"):
        Case(Plain(k=2), None, view, codes=codes)


# Made once, resumed, verified


def test_the_same_call_opens_what_is_there_and_another_is_refused(store, tmp_path, monkeypatch):
    folder = tmp_path / "c"
    first = encode(store, Plain(), folder, **FILES, quiet=True)
    codec = Plain()
    assert encode(store, codec, folder, quiet=True).hash == first.hash and codec.calls == 1  # the 64 rows that name it
    with pytest.raises(
        FileExistsError, match=r"another encoding \(codec '\w{16}', not '\w{16}'\): give another folder"
    ):
        encode(store, Plain(seed=1), folder)
    with pytest.raises(FileExistsError, match="another encoding"):
        encode(store, Plain(k=5), folder)  # no weight has changed
    with pytest.raises(FileExistsError, match=r"; store '\w{16}'"):
        encode(store.split()[0], Plain(), folder)
    with pytest.raises(ValueError, match="codes of another codec:"):
        first.check(Plain(seed=1), store)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    assert encode(store, Plain(), quiet=True).folder.parent == tmp_path / "cache" / "codes"


@pytest.mark.parametrize("at", [1, 2, 5, 9, 14, 18])
def test_stopped_at_any_batch_it_goes_on_to_the_same_bytes(store, codes, at, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(store, Plain(stop=1 + at), tmp_path / "c", **FILES, quiet=True)
    encode(store, Plain(), tmp_path / "c", quiet=True)  # the cut into batches is that of the first call
    assert hashes(tmp_path / "c") == hashes(codes.folder)


def test_stopped_at_any_write_it_goes_on_to_the_same_bytes(store, codes, tmp_path, monkeypatch):
    real, left = lineage.write, 0

    def write(path, fill):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("unplugged")
        return real(path, fill)

    writes = 2 * len(codes.manifest["shards"]) + 2
    for at in range(1, writes + 1):
        left = at
        monkeypatch.setattr(lineage, "write", write)
        with pytest.raises(OSError, match="unplugged"):
            encode(store, Plain(), tmp_path / str(at), **FILES, quiet=True)
        monkeypatch.setattr(lineage, "write", real)
        encode(store, Plain(), tmp_path / str(at), **FILES, quiet=True)
        assert hashes(tmp_path / str(at)) == hashes(codes.folder), f"stopped at write {at} of {writes}"


def test_a_shard_damaged_while_the_encoding_lay_open_is_made_again(store, codes, tmp_path, capsys):
    folder = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        encode(store, Plain(stop=15), folder, **FILES, quiet=True)
    path = folder / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    encode(store, Plain(), folder)
    assert "00001.safetensors is missing or damaged: made again from there" in capsys.readouterr().err
    assert hashes(folder) == hashes(codes.folder)


def test_what_is_damaged_unfinished_or_something_else_does_not_open(store, tmp_path):
    folder = tmp_path / "c"
    encode(store, Plain(), folder, **FILES, quiet=True)
    path = folder / "00001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"00001\.safetensors is damaged \(its SHA-256"):
        Codes.open(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"00001\.safetensors is damaged \(cut"):
        Codes.open(folder, verify=False)
    path.write_bytes(data)
    (folder / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'note\.txt', which is not of this store"):
        Codes.open(folder)
    (folder / "note.txt").unlink()
    manifest = lineage.read_json(folder / "manifest.json")
    lineage.write_json(folder / "manifest.json", manifest | {"state": "partial"})
    with pytest.raises(FileNotFoundError, match="cut short at 900 rows"):
        Codes.open(folder)
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json: encode"):
        Codes.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="of format 1, wanted 'codes 1'"):
        Codes.open(store.folder)
    with pytest.raises(ValueError, match="store of format codes 1, wanted 1"):
        Store.open(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"shard_bytes": -1}, "shard_bytes must be 1 or more, got -1"),
        ({"codec": Plain(site=None)}, "the codec has no site"),
    ],
)
def test_bad_calls_are_refused(store, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        encode(**({"store": store, "codec": Plain(), "folder": tmp_path / "c"} | change))
    assert not list(tmp_path.iterdir())


def test_a_code_that_is_not_finite_is_refused_by_its_row(store, tmp_path):
    class Broken(Plain):
        def dense(self, x):
            z = super().dense(x)
            z[(x == store.gather(torch.tensor([333]), SITE)).all(1), 2] = torch.inf
            return z

    with pytest.raises(FloatingPointError, match="the code of row 333 is not finite"):
        encode(store, Broken(), tmp_path / "c", **FILES, quiet=True)


def test_a_disk_too_small_is_noticed_on_the_first_batch(store, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"would take 0\.00 GB, 0\.00 GB are free"):
        encode(store, Plain(), tmp_path / "c", **FILES, quiet=True)


def test_others_read_it_as_safetensors(codes, z):
    from safetensors.numpy import load_file

    codes.column(0)
    columns = load_file(codes.folder / "columns.safetensors")
    assert columns["rows"].dtype == np.int32 and columns["ends"][-1] == codes.entries
    shard = load_file(codes.folder / "00000.safetensors")
    assert shard["indices"].dtype == np.int32 and shard["offsets"][-1] == len(shard["values"])
    assert shard["fired"].tolist() == (z[: len(shard["text"])] != 0).sum(0).tolist()


@pytest.mark.torture
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been():
    script = Path(__file__).parent / "torture_harvest.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "3", "--flips", "20", "--only", "codes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "codes: kills: 3" in done.stdout and "codes: noticed: 20" in done.stdout
