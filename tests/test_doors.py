"""Sites, tokens, edits, files, markup: the types that cross rooms."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import catalogue, edit, html, lineage
from workbench.batch import Exclusion, Tokens
from workbench.code import Code
from workbench.edit import At, Edit
from workbench.site import STREAMS, Site


@pytest.mark.parametrize("text", [*(f"12.{s}" for s in STREAMS), "embed", "model.layers.3:out", "conv1:in"])
def test_a_sites_text_form_reads_back(text):
    assert str(Site.of(text)) == text
    assert Site.of(Site.of(text)) == Site.of(text)


@pytest.mark.parametrize(
    "text", ["12", "12.", ".resid", "x.resid", "12.residual", "-1.resid", "resid", "", "1.2.resid"]
)
def test_a_wrong_site_is_refused(text):
    with pytest.raises(ValueError, match="got"):
        Site.of(text)


def test_positions_do_not_count_padding():
    left = Tokens(torch.tensor([[9, 9, 5, 6]]), torch.tensor([[False, False, True, True]]))
    assert left.positions.tolist() == [[0, 0, 0, 1]]


def test_exclusion_drops_first_special_padding_and_giants():
    tokens = Tokens(torch.tensor([[9, 5, 0, 6]]), torch.tensor([[False, True, True, True]]))
    assert Exclusion().by_token(tokens, frozenset({0})).tolist() == [[False, False, False, True]]
    assert Exclusion(first=False, special=False).by_token(tokens, frozenset({0})).tolist() == [
        [False, True, True, True]
    ]
    rule = Exclusion(norm=10.0, medians={"1.resid": 1.0})
    h = torch.tensor([[3.0, 4.0], [0.0, 10.1], [6.0, 8.0]])
    assert rule.by_norm("1.resid", h).tolist() == [True, False, True]
    assert rule.by_norm("2.resid", h).all()
    assert Exclusion.from_json(json.loads(json.dumps(rule.to_json()))) == rule


class Halves:
    """A codec of two latents on d = 2: relu(x), times the identity's atoms, so negative entries are its error."""

    latents, site, target, exclusion = 2, Site(0, "resid"), Site(0, "resid"), Exclusion(medians={"0.resid": 1.0})

    def encode(self, x):
        return Code.dense(x.relu())

    def decode(self, code):
        return code.to_dense()

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def atoms(self, latents=None):
        return torch.eye(2) if latents is None else torch.eye(2)[latents]


@pytest.fixture
def at():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    real = torch.tensor([[True, True, True], [False, True, True]])
    tokens = Tokens(ids, real)
    prompt = torch.tensor([[True, True, False], [True, True, False]])
    return At(Site(0, "resid"), ids, tokens.positions, real, Exclusion().by_token(tokens), prompt)


H = torch.tensor([[[1.0, -2], [3, 4], [-5, 6]], [[1, 1], [2, -2], [3, 3]]])


def test_edits_by_hand(at):
    moved = edit.add(torch.tensor([1.0, 0]), 2.0)(H, at)
    assert (moved - H).tolist() == [[[0, 0], [2, 0], [2, 0]], [[0, 0], [0, 0], [2, 0]]]  # first and padding untouched
    assert edit.zero()(H, at)[0].tolist() == [[1, -2], [0, 0], [0, 0]]
    assert edit.mean(torch.tensor([7.0, 8]))(H, at)[0, 1].tolist() == [7, 8]
    assert edit.patch(-H)(H, at)[0, 1].tolist() == [-3, -4]
    assert edit.splice(Halves())(H, at)[0].tolist() == [[1, -2], [3, 4], [0, 6]]


def test_latent_edits_keep_the_error(at):
    codec = Halves()
    assert edit.clamp(codec, 0, 10.0)(H, at)[0].tolist() == [[1, -2], [10, 4], [5, 6]]  # -5 + (10 - 0)
    assert edit.scale(codec, 1, 3.0)(H, at)[0, 1].tolist() == [3, 12]
    assert edit.ablate(codec, 1)(H, at)[0, 2].tolist() == [-5, 0]
    assert torch.equal(edit.scale(codec, 0, 1.0)(H, at), H)


def test_a_norm_beyond_the_codecs_rule_is_left_alone(at):
    h = H.clone()
    h[0, 1] = torch.tensor([300.0, -4])
    assert torch.equal(edit.splice(Halves())(h, at)[0, 1], h[0, 1])
    assert edit.splice(Halves()).everywhere()(h, at)[0, 1].tolist() == [300, 0]


def test_restrictions_and_chains(at):
    one = edit.add(torch.ones(2))
    assert (one.generated()(H, at) != H).any(-1).tolist() == [[False, False, True], [False, False, True]]
    assert (one.prompt()(H, at) != H).any(-1).tolist() == [[False, True, False], [False, False, False]]
    assert (one.everywhere()(H, at) != H).any(-1).tolist() == [[True, True, True], [False, True, True]]
    assert (one.everywhere().at(1)(H, at) != H).any(-1).tolist() == [[False, True, False], [False, False, True]]
    assert torch.equal(one.then(edit.add(torch.ones(2), -1.0))(H, at), H)
    both = one.at(1).then(one.at(2))(H, at) - H
    assert both[0].sum(-1).tolist() == [0, 2, 2]
    assert torch.equal(one(H, at), one(H, at)), "an edit is pure"


def test_resampling_draws_given_rows_and_repeats(at):
    rows = torch.arange(10.0)[:, None].expand(10, 2) + 100
    out = edit.resample(rows, seed=1)(H, at)
    assert ((out >= 100).all(-1) == at.keep).all()
    assert torch.equal(out, edit.resample(rows, seed=1)(H, at))


def test_a_resampled_position_does_not_depend_on_the_window(at):
    """Under a KV cache the edit sees one new position: its draw must be the full run's."""
    rows = torch.randn(50, 2)
    whole = edit.resample(rows)(H, at)
    last = At(at.site, *(field[:, 2:] for field in at[1:]))
    assert torch.equal(edit.resample(rows)(H[:, 2:], last), whole[:, 2:])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: edit.add(torch.ones(2, 2)), "one axis"),
        (lambda: edit.add(torch.tensor([1.0, torch.nan])), "NaN"),
        (lambda: edit.clamp(Halves(), 2, 1.0), r"0\.\.1"),
        (lambda: edit.add(torch.ones(2)).at([-1]), "from the start"),
        (lambda: edit.resample(torch.ones(0, 2)), "at least one row"),
    ],
)
def test_bad_edits_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_an_edit_that_changes_the_shape_is_refused(at):
    with pytest.raises(ValueError, match="keep the shape"):
        Edit(lambda h, at: h[..., :1])(H, at)
    with pytest.raises(ValueError, match="patch"):
        edit.patch(H[:1])(H, at)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_equal_json_has_an_equal_fingerprint(value):
    assert lineage.fingerprint(value) == lineage.fingerprint(json.loads(json.dumps(value)))


def test_every_flipped_byte_of_a_json_artefact_is_seen(tmp_path):
    path = lineage.write_json(tmp_path / "a.json", {"rows": 12, "sites": ["1.resid"], "share": 0.25})
    assert lineage.read_json(path) == {"rows": 12, "sites": ["1.resid"], "share": 0.25}
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            lineage.read_json(path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = lineage.write(tmp_path / "a.bin", b"old")

    def fail(part):
        part.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        lineage.write(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]  # noqa: PTH208 (hidden files count too)


def test_tensor_hashes_see_names_shapes_types_and_bytes():
    base = {"a": torch.arange(6.0)}
    others = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).view(2, 3)},
        {"a": torch.arange(6.0).bfloat16()},
        {"a": torch.arange(6.0).neg()},
    ]
    assert lineage.tensors_hash(base) == lineage.tensors_hash({"a": torch.arange(6.0)})
    assert len({lineage.tensors_hash(o) for o in [base, *others]}) == 5


def test_markup_escapes_what_came_from_data():
    made = html.tag("p", "<script>", html.tag("b", "&"), attrs={"title": '"><img onerror=x>', "hidden": None})
    assert made == '<p title="&quot;&gt;&lt;img onerror=x&gt;">&lt;script&gt;<b>&amp;</b></p>'
    assert html.join("<", html.Markup("<i>")) == "&lt;<i>"


@pytest.mark.parametrize("folder", catalogue.FOLDERS)
def test_every_entry_has_its_function_and_a_line_about_it(folder):
    rows = catalogue.table(folder)
    assert rows
    assert all(row["what"] for row in rows)


def test_unknown_entries_and_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="choose from"):
        catalogue.entry("variants", "nothing")
    with pytest.raises(ValueError, match="registry must be"):
        catalogue.names("nothing")
    with pytest.raises(TypeError, match="latents"):
        catalogue.bound("variants", "batch_topk", d=4)
