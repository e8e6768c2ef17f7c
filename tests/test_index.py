"""One pass over a small store finds exactly what brute force finds, however the rows are cut."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import interpret
from workbench.batch import Batch, Exclusion, Tokens
from workbench.code import Code
from workbench.interpret.index import bin_edges, bin_of
from workbench.interpret.keep import Best, priority
from workbench.site import Site

SITE = Site(3, "resid")
LATENTS, DEAD = 12, 5


@dataclass
class Rows:
    """A store in memory: `texts` rows of `length` tokens, the first position and some others left out."""

    texts: int = 40
    length: int = 16
    d: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        drawn = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(0, 50, (self.texts, self.length), generator=drawn)
        mask = torch.ones(ids.shape, dtype=torch.bool)
        mask[3, 9:] = False  # a short text
        self.tokens = Tokens(ids, mask)
        kept = mask & (torch.arange(self.length) > 0) & (ids != 7)
        kept[6] = False  # a text of which nothing was kept
        self.text, self.pos = kept.nonzero(as_tuple=True)
        self.x = torch.randn(len(self.text), self.d, generator=drawn)
        self.rows, self.share_excluded = len(self.x), 1 - len(self.x) / int(mask.sum())
        self.hash = f"rows {self.texts} {self.seed}"

    def batches(self, size, *, site=None, seed=None):
        assert site == SITE
        assert seed is None
        for i in range(0, self.rows, size):
            part = slice(i, i + size)
            yield Batch(self.x[part], self.x[part], self.text[part], self.pos[part])

    def gather(self, rows, site):
        assert Site.of(site) == SITE
        return self.x[rows]

    def where(self, rows):
        return self.text[rows], self.pos[rows]


@dataclass
class Plain:
    """ReLU of a linear map, in any layout; one latent never fires, one nearly always, some values tie."""

    layout: str = "csr"
    latents: int = LATENTS
    site: Site | None = SITE
    target: Site | None = SITE
    exclusion: Exclusion = field(default_factory=Exclusion)
    signed: bool = False

    @cached_property
    def weight(self):
        return torch.randn(10, LATENTS, generator=torch.Generator().manual_seed(9))

    def dense(self, x):
        bias = torch.full((LATENTS,), -1.0)
        bias[DEAD], bias[2] = -1e9, 30.0
        pre = x @ self.weight + bias
        z = torch.where(pre.abs() > 2.0, pre, 0.0) if self.signed else pre.relu()
        z[:, DEAD] = 0
        return (z * 4).round() / 4  # ties

    def encode(self, x):
        dense = Code.dense(self.dense(x))
        if self.layout == "dense":
            return dense
        if self.layout == "csr":
            return dense.to_csr()
        values, indices = dense.values.abs().topk(LATENTS)
        return Code.fixed(indices, dense.values.gather(1, indices), LATENTS)

    def decode(self, code):
        return code.to_dense() @ self.weight.T

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def atoms(self, latents=None):
        return self.weight.T if latents is None else self.weight.T[latents]


@pytest.fixture(scope="module")
def rows():
    return Rows()


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory):
    return interpret.index(Plain(), rows, folder=tmp_path_factory.mktemp("index"), batch=37)


def brute_top(z, text, top, per_text):
    """Strongest first, earlier row first among equals, greedily under the cap."""
    found, seen = [], {}
    for row in sorted(z.nonzero()[:, 0].tolist(), key=lambda r: (-abs(float(z[r])), r)):
        t = int(text[row])
        if seen.get(t, 0) < per_text and len(found) < top:
            found.append(row)
            seen[t] = seen.get(t, 0) + 1
    return found


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("layout", ["csr", "fixed", "dense"])
def test_one_pass_equals_brute_force(rows, layout, signed, tmp_path):
    codec = Plain(layout, signed=signed)
    index = interpret.index(codec, rows, folder=tmp_path, batch=29, top=25, per_text=1)
    z = codec.dense(rows.x)
    table = index.table
    fired = (z != 0).sum(0)
    assert table["fired"].tolist() == fired.tolist()
    np.testing.assert_allclose(table["density"], fired.numpy() / rows.rows)
    np.testing.assert_allclose(table["max"], z.abs().amax(0).numpy())
    np.testing.assert_allclose(table["mean"], (z.abs().sum(0) / fired.clamp_min(1)).numpy(), rtol=1e-6)
    assert table["dead"].tolist() == [i == DEAD for i in range(LATENTS)]
    edges = bin_edges()
    for latent in range(LATENTS):
        values = z[:, latent][z[:, latent] != 0].abs().numpy()
        counts, _ = np.histogram(values, np.nan_to_num(edges, posinf=1e300))
        got = index.histogram(latent)
        assert got["count"].tolist() == np.trim_zeros(counts).tolist()
        top = index.picked[(index.picked["latent"] == latent) & (index.picked["kind"] == "top")]
        want = brute_top(z[:, latent], rows.text, 25, 1)
        assert top["row"].tolist() == want
        assert top["text"].tolist() == rows.text[want].tolist()
        assert top["pos"].tolist() == rows.pos[want].tolist()
        np.testing.assert_allclose(top["value"], z[want, latent].numpy())


def test_quantile_contexts_lie_in_their_quantile(rows, made, tmp_path):
    index = interpret.index(Plain(), rows, folder=tmp_path, sample=10_000, quantiles=5, per_quantile=4)
    z = Plain().dense(rows.x)
    for latent in range(LATENTS):
        values = np.sort(z[:, latent][z[:, latent] > 0].numpy())
        mine = index.picked[(index.picked["latent"] == latent) & (index.picked["kind"] == "quantile")]
        assert not mine["row"].duplicated().any()
        assert len(mine) == sum(min(4, len(part)) for part in np.array_split(values, 5))
        for line in mine.itertuples():
            assert z[line.row, latent] == line.value
            places = np.flatnonzero(values == line.value)  # equal values may straddle an edge
            assert any(place * 5 // len(values) == line.quantile for place in places)
    drawn = made.picked[made.picked["kind"] == "quantile"].groupby("latent")["quantile"].nunique()
    assert drawn.drop(DEAD, errors="ignore").min() == 10


def test_a_drawn_quantile_is_near_the_true_one(tmp_path):
    rows = Rows(texts=700)
    index = interpret.index(Plain(), rows, folder=tmp_path, sample=256)
    z = Plain().dense(rows.x)
    for latent in (0, 2):
        values = np.sort(z[:, latent][z[:, latent] > 0].numpy())
        assert len(values) > 1000
        mine = index.picked[(index.picked["latent"] == latent) & (index.picked["kind"] == "quantile")]
        share = np.searchsorted(values, mine["value"]) / len(values)
        assert (np.abs(share - (mine["quantile"] + 0.5) / 10) < 0.05 + 4 * 0.5 / 16).all()


def test_random_contexts_are_any_rows_with_their_value(rows, made):
    z = Plain().dense(rows.x)
    mine = made.picked[made.picked["kind"] == "random"]
    assert (mine.groupby("latent").size() == 10).all()
    assert mine["latent"].nunique() == LATENTS
    assert not mine.duplicated(["latent", "row"]).any()
    np.testing.assert_allclose(mine["value"], z.numpy()[mine["row"], mine["latent"]])
    assert (mine["value"] == 0).any()
    assert (mine["text"].to_numpy() == rows.text.numpy()[mine["row"]]).all()


@pytest.mark.parametrize("batch", [1, 100, 100_000])
def test_the_cut_into_batches_does_not_matter(rows, made, batch, tmp_path):
    again = interpret.index(Plain(), rows, folder=tmp_path, batch=batch)
    pd.testing.assert_frame_equal(again.picked, made.picked)
    pd.testing.assert_frame_equal(again.table, made.table)
    assert again.manifest["files"] == made.manifest["files"]


def test_another_seed_draws_other_contexts_and_the_same_tops(rows, made, tmp_path):
    again = interpret.index(Plain(), rows, folder=tmp_path, seed=1, sample=50)
    kinds = {
        kind: [index.picked[index.picked["kind"] == kind]["row"].tolist() for index in (made, again)]
        for kind in ("top", "quantile", "random")
    }
    assert kinds["top"][0] == kinds["top"][1]
    assert kinds["quantile"][0] != kinds["quantile"][1]
    assert kinds["random"][0] != kinds["random"][1]


def test_the_best_of_a_long_stream_is_the_best_of_all_of_it():
    drawn = np.random.default_rng(0)
    best, n = Best(5, 6, per_text=2), 40_000
    best._room = 500  # cut often
    row = np.arange(n)
    entries = {
        "latent": drawn.integers(0, 4, n),
        "key": drawn.integers(0, 900, n).astype(float),
        "row": row,
        "text": row // 5000,  # so few that the cap binds
        "value": np.zeros(n, np.float32),
    }
    for begin in range(0, n, 173):
        best.add(**{name: column[begin : begin + 173] for name, column in entries.items()})
        assert best._count <= 500 + 173
    got = best.best()
    for latent in range(5):
        mine = np.flatnonzero(entries["latent"] == latent)
        keys = torch.zeros(n)
        keys[mine] = torch.from_numpy(entries["key"][mine]).float() + 1
        assert got["row"][got["latent"] == latent].tolist() == brute_top(keys, row // 5000, 6, 2)


def test_priorities_are_uniform_and_depend_on_row_latent_and_seed():
    row, latent = np.arange(20_000), np.full(20_000, 3)
    drawn = priority(row, latent, 0)
    assert np.array_equal(drawn, priority(row, latent, 0))
    assert np.abs(np.histogram(drawn, 10, (0, 1))[0] - 2000).max() < 200
    for other in (priority(row, latent + 1, 0), priority(row, latent, 1), priority(row + 1, latent, 0)):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


def test_bins_hold_what_lies_between_their_edges():
    edges = bin_edges()
    values = np.array([1e-9, 1.0, 1.4, 1.5, 2.0, 3e9])
    bins = bin_of(values)
    assert ((edges[bins] <= values) & (values < edges[bins + 1])).all()
    assert bin_of(edges[1:-1]).tolist() == list(range(1, len(edges) - 1))


def test_contexts_show_every_tokens_activation(rows, made):
    z = Plain().dense(rows.x)
    place = {(int(t), int(p)): i for i, (t, p) in enumerate(zip(rows.text, rows.pos, strict=True))}
    seen_out = False
    for latent in (0, 2, 7):
        for kind in ("top", "quantile", "random"):
            for context in made.contexts(latent, kind, window=(-4, 3)):
                assert context.kind == kind
                low = max(0, context.pos - 4)
                high = min(int(rows.tokens.mask[context.text].sum()), context.pos + 4)
                assert list(context.ids) == rows.tokens.ids[context.text, low:high].tolist()
                assert low + context.center == context.pos
                assert context.activation == pytest.approx(context.activations[context.center])
                for pos, value in zip(range(low, high), context.activations, strict=True):
                    row = place.get((context.text, pos))
                    seen_out |= row is None
                    assert np.isnan(value) if row is None else value == pytest.approx(float(z[row, latent]))
    assert seen_out


def test_contexts_are_strongest_first_and_limited(made):
    values = [abs(c.activation) for c in made.contexts(0)]
    assert values == sorted(values, reverse=True)
    assert len(made.contexts(0, limit=3)) == 3
    quantiles = [c.quantile for c in made.contexts(0, "quantile", limit=2)]
    assert quantiles == sorted(quantiles, reverse=True)
    assert max(quantiles.count(q) for q in set(quantiles)) == 2
    assert made.contexts(DEAD) == []
    assert [c.center for c in made.contexts(0, window=(0, 0))] == [0] * 20


def test_the_top_token_carries_most_of_the_top_contexts(rows, made):
    weight = {}
    for context in made.contexts(0):
        i = context.ids[context.center]
        weight[i] = weight.get(i, 0) + context.activation
    assert made.table["top_token"][0] in {f"[{i}]" for i, w in weight.items() if w == max(weight.values())}
    assert made.table["top_token"][DEAD] == ""


def test_tokens_have_their_text_when_a_subject_is_given(rows, tmp_path):
    class Words:
        def words(self, ids):
            return [f"w{i}" for i in ids]

    index = interpret.index(Plain(), rows, Words(), folder=tmp_path)
    context = index.contexts(0)[0]
    assert context.tokens == tuple(f"w{i}" for i in context.ids)


def test_an_index_made_once_is_opened_not_made(rows, made):
    class Silent(Rows):
        def batches(self, *_, **__):
            raise AssertionError("the rows were read again")

    again = interpret.index(Plain(), Silent(), folder=made.folder)
    pd.testing.assert_frame_equal(again.picked, made.picked)
    with pytest.raises(ValueError, match="holds an index of another args"):
        interpret.index(Plain(), rows, folder=made.folder, top=3)
    with pytest.raises(ValueError, match="another codec"):
        interpret.index(Plain(signed=True), rows, folder=made.folder)
    with pytest.raises(ValueError, match="another codec, store"):
        interpret.index(Plain(), Rows(seed=1), folder=made.folder)


@pytest.mark.parametrize("name", ["latents.parquet", "contexts.parquet", "histograms.npz"])
def test_a_flipped_byte_is_seen(rows, name, tmp_path):
    interpret.index(Plain(), rows, folder=tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is missing or damaged"):
        interpret.index(Plain(), rows, folder=tmp_path)


def test_given_codes_are_used_and_others_are_refused(rows, made, tmp_path):
    class Mute(Plain):
        def encode(self, x):
            assert len(x) <= 64, "the rows were encoded again"  # 64 rows name the codec
            return super().encode(x)

    again = interpret.index(Mute(), rows, folder=tmp_path, codes=made.codes)
    pd.testing.assert_frame_equal(again.picked, made.picked)
    assert str(again.contexts(2)) == str(made.contexts(2))  # NaN is no NaN's equal
    assert not (tmp_path / "codes").exists()
    with pytest.raises(ValueError, match="codes of another codec, store: encode this store"):
        interpret.index(Plain(), Rows(seed=1), folder=tmp_path / "other", codes=made.codes)


def test_dead_latents_are_counted_with_the_rows_looked_at(rows, made):
    assert made.dead_notice == f"1 of {LATENTS} latents (8.3%) never fired in {rows.rows:,} rows"
    assert made.alive.tolist() == [i != DEAD for i in range(LATENTS)]
    figure = interpret.density_figure(made)
    assert made.dead_notice in figure.layout.title.subtitle.text
    assert len(figure.data[0].x) == LATENTS - 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"top": 0}, "top must be 1 or more"),
        ({"random": -1}, "random must be 0 or more"),
        ({"sample": 10}, "sample must be quantiles \\* per_quantile = 50 or more, got 10"),
    ],
)
def test_bad_arguments_are_refused(rows, args, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        interpret.index(Plain(), rows, folder=tmp_path, **args)


def test_what_cannot_be_indexed_is_refused(rows, made, tmp_path):
    with pytest.raises(ValueError, match="the codec has no site"):
        interpret.index(Plain(site=None), rows, folder=tmp_path)
    with pytest.raises(IndexError, match=r"latent must be 0..11, got 12"):
        made.contexts(12)
    with pytest.raises(ValueError, match="kind must be one of top, quantile, random"):
        made.contexts(0, "bottom")
    bad = Rows()
    bad.x[20, 0] = torch.nan
    bad.hash = "bad"
    with pytest.raises(FloatingPointError, match="the code of row 20 is not finite"):
        interpret.index(Plain(), bad, folder=tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_a_view_of_a_store_on_disk_is_indexed_by_its_own_rows(tmp_path):
    from fake_subject import FakeSubject

    from workbench.harvest import collect

    texts = [" ".join(f"w{i * j % 31}" for j in range(1, 40)) for i in range(1, 13)]
    store = collect(
        FakeSubject(), texts, "0.resid", rows=None, length=16, min_length=4, folder=tmp_path / "s", quiet=True
    )
    view, _ = store.split(test=0.3)
    site = Site(0, "resid")

    class Six(Plain):
        weight = torch.randn(6, LATENTS, generator=torch.Generator().manual_seed(9)) / 100

    codec = Six(site=site)
    index = interpret.index(codec, view, folder=tmp_path / "i")
    z = codec.dense(view.gather(torch.arange(view.rows), site))
    assert index.table["fired"].tolist() == (z != 0).sum(0).tolist()
    assert index.share_excluded == view.share_excluded
    latent = int(index.table["fired"].argmax())
    for context in index.contexts(latent):
        assert context.activation == pytest.approx(float(z[context.row, latent]))
        assert context.activations[context.center] == pytest.approx(context.activation)
        assert (context.text, context.pos) == tuple(int(part) for part in view.where(torch.tensor([context.row])))
        assert context.ids[context.center] == int(view.tokens.ids[context.text, context.pos])
