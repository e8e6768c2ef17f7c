"""llamascopium: what its own code wrote does what its own code said, and what it cannot mean is refused."""

import json
import shutil
from math import log

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import workbench as wb
from workbench.circuits.tracers import crosslayer, lorsa
from workbench.dictionary import encoders, formats
from workbench.dictionary.formats._lorsa import Lorsa
from workbench.dictionary.formats._parts import Sliced, Threshold
from workbench.dictionary.formats.llamascopium import BlockTopK
from workbench.site import Site
from workbench.testbeds import subject

OWNER = "llamascopium"
FILE = "sae_weights.safetensors"
AVERAGE = "dataset_average_activation_norm."
LOG = "activation_function.log_jumprelu_threshold"
RESID = "blocks.1.hook_resid_post"


def sizes(case):
    """Rows' norms over sqrt(d), where the owner normalises rows one by one: its code is in those."""
    x = golden.expected(OWNER, case)["x"]
    return x.norm(dim=-1, keepdim=True) / x.shape[1] ** 0.5 if "token_wise" in case else 1.0


def copied(tmp_path, case, config=(), tensors=(), drop=()):
    """A golden checkpoint with other settings or tensors; a value is what it is, or a function of what it was."""
    folder = tmp_path / case
    shutil.copytree(golden.FOLDER / OWNER / case / "checkpoint", folder)
    said, held = json.loads((folder / "config.json").read_text()), load_file(folder / FILE)
    for was, changes in ((said, dict(config)), (held, dict(tensors))):
        was |= {name: value(was[name]) if callable(value) else value for name, value in changes.items()}
        for name in drop:
            was.pop(name, None)
    (folder / "config.json").write_text(json.dumps(said))
    save_file({name: value.contiguous() for name, value in held.items()}, folder / FILE)
    return folder


def written(folder, kind, tensors, **config):
    """A folder as the owner writes it."""
    common = {
        "sae_type": kind,
        "use_decoder_bias": True,
        "act_fn": "relu",
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(common | config))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / FILE)
    return folder


def by_hand(folder, threshold, norm, bias=0.0, **config):
    """One number in, two latents of pre-activations x and -x, thresholds alike; their atoms have this norm."""
    tensors = {
        "W_E": torch.tensor([[1.0, -1.0]]),
        "b_E": torch.zeros(2),
        "W_D": torch.tensor([[norm], [norm]]),
        "b_D": torch.tensor([bias]),
        LOG: torch.full((2,), log(threshold)),
    }
    hooks = {"hook_point_in": RESID, "hook_point_out": RESID}
    more = {"d_model": 1, "expansion_factor": 2, "act_fn": "jumprelu"} | hooks | config
    return wb.load(written(folder, "sae", tensors, **more))


@pytest.mark.parametrize("case", golden.cases(OWNER))
def test_everything_is_as_its_owner_computes_it(case):
    golden.same(golden.opened(OWNER, case), OWNER, case, size=sizes(case))


@pytest.mark.parametrize("case", golden.cases(OWNER))
def test_saved_as_ours_it_is_the_same(tmp_path, case):
    made, x = golden.opened(OWNER, case), golden.expected(OWNER, case)["x"]
    again = wb.load(wb.save(made, tmp_path / "own"))
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())
    assert_close(again.encode(x).to_dense(), made.encode(x).to_dense(), **golden.TOLERANCE)
    assert_close(again.reconstruct(x), made.reconstruct(x), **golden.TOLERANCE)
    assert (again.site, again.target, again.call) == (made.site, made.target, made.call)


def test_places_model_and_settings_are_kept():
    sae, across = golden.opened(OWNER, "sae_jumprelu"), golden.opened(OWNER, "clt_jumprelu")
    transcoder, heads = golden.opened(OWNER, "transcoder_relu"), golden.opened(OWNER, "lorsa_topk")
    assert (sae.site, sae.target) == (Site.of("1.resid"), Site.of("1.resid"))
    assert (transcoder.site, transcoder.target) == (Site.of("1.mlp_in"), Site.of("1.mlp_out"))
    assert (heads.site, heads.target) == (Site.of("2.attn_in"), Site.of("2.attn_out"))
    assert (across.site, across.target, across.shape) == (None, None, (3, 12))
    assert transcoder.training_summary["model"] == "gpt2" and sae.training_summary["model"] is None
    assert across.training_summary["config"]["hook_points_out"][2] == "blocks.2.hook_mlp_out"
    assert across.training_summary["format"] == OWNER and set(across.training_summary["files"]) == {"config.json", FILE}


def test_rows_before_a_gain_need_the_model():
    with pytest.raises(ValueError, match="before the norm's gain"):
        wb.load(golden.FOLDER / OWNER / "transcoder_relu" / "checkpoint")


def test_a_value_at_the_threshold_is_off(tmp_path):
    made = by_hand(tmp_path / "one", threshold=1.0, norm=1.0)
    above = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    code = made.encode(torch.stack([torch.tensor(1.0), above, -above])[:, None]).to_dense()
    assert_close(code, torch.tensor([[0.0, 0.0], [above, 0.0], [0.0, above]]), rtol=0, atol=0)


def test_thresholds_are_logarithms_of_value_times_norm(tmp_path):
    """h = 2 has a contribution of 0.5 x 2 = 1: on above 0.9, off above 1.1; by the value alone it is on above both."""
    x = torch.tensor([[2.0]])
    on = {
        (threshold, include): by_hand(
            tmp_path / f"{threshold}{include}", threshold, 0.5, sparsity_include_decoder_norm=include
        )
        .encode(x)
        .to_dense()
        .any()
        for threshold in (0.9, 1.1, 2.1)
        for include in (True, False)
    }
    assert [key for key, value in on.items() if value] == [(0.9, True), (0.9, False), (1.1, False)]


def test_the_decoder_bias_is_not_taken_from_rows(tmp_path):
    made = by_hand(tmp_path / "one", threshold=0.1, norm=1.0, bias=5.0)
    assert_close(made.encode(torch.tensor([[2.0]])).to_dense(), torch.tensor([[2.0, 0.0]]))
    assert_close(made.reconstruct(torch.tensor([[2.0]])), torch.tensor([[7.0]]))


def test_average_norms_of_a_folded_checkpoint_are_not_read(tmp_path):
    """The owner writes memory that was never set where it has no averages."""
    junk = {AVERAGE + RESID: torch.tensor(torch.nan)}
    folder = copied(tmp_path, "sae_jumprelu_raw", tensors=junk)
    x = golden.expected(OWNER, "sae_jumprelu_raw")["x"]
    assert_close(wb.load(folder).reconstruct(x), golden.opened(OWNER, "sae_jumprelu_raw").reconstruct(x))


def test_a_scale_stays_a_scale():
    """Dataset-wise averages are the dictionary's scales: weights are the file's own."""
    made = golden.opened(OWNER, "transcoder_jumprelu")
    held = load_file(golden.FOLDER / OWNER / "transcoder_jumprelu" / "checkpoint" / FILE)
    norms = [float(held[AVERAGE + f"blocks.1.{hook}"]) for hook in ("ln2.hook_normalized", "hook_mlp_out")]
    assert_close([float(made.scale_in), float(made.scale_out)], [12**0.5 / norm for norm in norms])
    assert torch.equal(made.encoder.weight, held["W_E"]) and torch.equal(made.decoder.weight, held["W_D"])


@pytest.mark.parametrize("case", ["sae_glu", "transcoder_jumprelu", "lorsa_ntk", "crosscoder_relu"])
def test_scales_fold_into_the_weights(tmp_path, case):
    made, want = golden.opened(OWNER, case), golden.expected(OWNER, case)
    before = (golden.FOLDER / OWNER / case / "checkpoint" / FILE).read_bytes()
    made.set_scale_(1.3 * float(made.scale_in), 0.7 * float(made.scale_out))  # what it computes is another, once
    code, y = made.encode(want["x"]).to_dense(), made.reconstruct(want["x"])
    made.fold_()
    assert (float(made.scale_in), float(made.scale_out)) == (1.0, 1.0)
    assert_close(made.encode(want["x"]).to_dense(), code, rtol=1e-4, atol=1e-4)
    assert_close(made.reconstruct(want["x"]), y, rtol=1e-4, atol=1e-4)
    assert (golden.FOLDER / OWNER / case / "checkpoint" / FILE).read_bytes() == before


def test_decoders_of_layers_are_grouped_by_the_layer_they_write_to():
    held = load_file(golden.FOLDER / OWNER / "clt_relu" / "checkpoint" / FILE)
    made = golden.opened(OWNER, "clt_relu")
    assert isinstance(made.decoder, Sliced)
    atoms = made.atoms([35])[0]  # latent 5 of layer 1, of 30 each
    assert_close(atoms, torch.stack([torch.zeros(12), held["W_D.1"][1, 5], held["W_D.2"][1, 5]]))


def test_layers_choose_k_each_or_together():
    apart, together = golden.opened(OWNER, "clt_topk"), golden.opened(OWNER, "clt_layertopk")
    x = golden.expected(OWNER, "clt_topk")["x"]
    by_layer = [(made.encode(x).to_dense() != 0).unflatten(1, (3, 30)).sum(-1) for made in (apart, together)]
    assert (by_layer[0] == 4).all() and (by_layer[1].sum(-1) == 9).all() and by_layer[1].unique().numel() > 2


def test_sites_of_a_crosscoder_choose_for_themselves():
    """A latent for each site, equal where both are on, and writing to its own site alone."""
    made, x = golden.opened(OWNER, "crosscoder_jumprelu"), golden.expected(OWNER, "crosscoder_jumprelu")["x"]
    code = made.encode(x).to_dense().unflatten(1, (3, 30))
    on = code != 0
    assert (on.any(1) & ~on.all(1)).any() and torch.equal(
        torch.where(on, code, code.amax(1, keepdim=True)).amin(1), code.amax(1)
    )
    written = made.atoms().unflatten(0, (3, 30)).norm(dim=-1) > 0  # (site, latent, site written)
    assert torch.equal(written, torch.eye(3).bool()[:, None].expand(3, 30, 3))
    assert golden.opened(OWNER, "crosscoder_relu").latents == 30


def test_block_topk_is_topk_of_each_block():
    made = BlockTopK(2, 9, 3)
    pre = torch.tensor([[3.0, -1.0, 2.0, -5.0, -6.0, 1.0, 4.0, 6.0, 5.0]])
    assert_close(made.infer(pre).to_dense(), torch.tensor([[3.0, 0, 2, 0, 0, 1, 0, 6, 5]]))
    made.weight[6] = 2.0  # 8 beats 5 and 6; the value stays
    assert_close(made.infer(pre).to_dense(), torch.tensor([[3.0, 0, 2, 0, 0, 1, 4, 6, 0]]))


def test_no_position_sees_a_later_one():
    made, x = golden.opened(OWNER, "lorsa_ntk"), golden.expected(OWNER, "lorsa_ntk")["x"]
    first = made.encode(x[:7]).to_dense()
    assert_close(first, made.encode(x).to_dense()[:7], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made.encode(x[1:]).to_dense()[:6], first[1:])


def test_without_its_extras_a_lorsa_is_ours():
    ours, x = encoders.Attention(8, 12, 3, 4, 10_000.0), torch.randn(9, 8)
    theirs = Lorsa(8, 12, 3, 4, scale=2.0, turned=4, adjacent=False)
    state = ours.state_dict() | {"query_bias": torch.zeros(3, 4), "key_bias": torch.zeros(3, 4)}
    theirs.load_state_dict(state | {"period": torch.tensor([1.0, 100.0])})
    assert_close(theirs(x, None), ours(x, None))
    text, pos = torch.arange(9) // 4, torch.arange(9) % 4
    assert_close(theirs(x, None, text, pos), ours(x, None, text, pos))
    neighbours = Lorsa(8, 12, 3, 4, scale=2.0, turned=4, adjacent=True)
    order = [0, 2, 1, 3]  # halves (0, 1), (2, 3) as pairs
    turned = {name: theirs.state_dict()[name][..., order] for name in ("query", "key")}
    neighbours.load_state_dict(theirs.state_dict() | turned)
    assert_close(neighbours(x, None), ours(x, None))


def drawn(shapes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def test_a_cross_layer_transcoder_can_be_traced(tmp_path):
    s = subject("tiny_text_gelu")
    d, n, each = s.d, s.layers, 64
    shapes = {"W_E": (n, d, each), "b_E": (n, each), LOG: (n, each)}
    shapes |= {f"W_D.{i}": (i + 1, each, d) for i in range(n)} | {f"b_D.{i}": (d,) for i in range(n)}
    hooks = {f"hook_points_{way}": [f"blocks.{i}.{way}" for i in range(n)] for way in ("in", "out")}
    size = {"d_model": d, "expansion_factor": each / d, "act_fn": "jumprelu"}
    made = wb.load(written(tmp_path / "clt", "clt", drawn(shapes), **size, **hooks))
    graph = crosslayer.trace(s, torch.arange(4)[None] + 40, made, budget=10, progress=False)
    assert (graph.nodes["kind"] == "latent").sum() == 10 and len(graph.edges)
    graph.check(1e-3)


def test_a_lorsa_can_be_traced(tmp_path):
    s = subject("tiny_text_gelu")
    d, groups, width, latents = s.d, 4, 6, 64
    shapes = {"W_Q": (groups, d, width), "W_K": (groups, d, width), "b_Q": (groups, width), "b_K": (groups, width)}
    shapes |= {"W_V": (latents, d), "W_O": (latents, d), "b_V": (latents,), "b_D": (d,)}
    said = {"n_qk_heads": groups, "d_qk_head": width, "positional_embedding_type": "none", "use_post_qk_ln": False}
    said |= {"hook_point_in": "blocks.1.ln1.hook_normalized", "hook_point_out": "blocks.1.hook_attn_out"}
    said |= {"d_model": d, "expansion_factor": latents / d, "act_fn": "topk", "top_k": 5, "n_ctx": 32}
    made = wb.load(written(tmp_path / "lorsa", "lorsa", drawn(shapes), **said), site="1.attn_in")
    table, error = lorsa.trace(s, torch.arange(6)[None] + 40, made)
    assert len(table) and error.shape == (6, d)


BAD = {  # case, settings, tensors, dropped, words of the line
    "a kind": ("sae_topk", {"sae_type": "vae"}, {}, (), "sae_type must be one of sae, crosscoder, clt, lorsa, molt"),
    "a setting": ("sae_topk", {"skip_bos": True}, {}, (), "'skip_bos' is no setting of a sae that we know, it is True"),
    "batches": ("sae_topk", {"act_fn": "batchtopk"}, {}, (), "act_fn batchtopk chooses among all rows of a batch"),
    "batch norms": ("sae_topk", {"norm_activation": "batch-wise"}, {}, (), "batch-wise: a row is scaled by the mean"),
    "token-wise": ("transcoder_relu", {"norm_activation": "token-wise"}, {}, (), "token-wise at several places"),
    "token-wise too": ("crosscoder_relu", {"norm_activation": "token-wise"}, {}, (), "token-wise at several places"),
    "layers": ("sae_topk", {"act_fn": "layertopk"}, {}, (), "act_fn layertopk is for cross-layer transcoders"),
    "k": ("sae_topk", {"top_k": 31}, {}, (), "top_k must be at most 30 latents, got 31"),
    "k of a layer": ("clt_topk", {"top_k": 31}, {}, (), "top_k must be at most 30 latents, got 31"),
    "no k": ("sae_topk", {"top_k": True}, {}, (), "top_k must be a whole number of 1 or more, got True"),
    "width": ("sae_topk", {"expansion_factor": 3}, {}, (), r"W_E must be \[12, 36\], got \[12, 30\]"),
    "turned": ("sae_topk", {}, {"W_D": lambda w: w.T}, (), r"W_D must be \[30, 12\], got \[12, 30\]"),
    "missing": ("sae_topk", {}, {}, ("b_E",), "has no tensor 'b_E'"),
    "thresholds": ("sae_jumprelu", {}, {}, (LOG,), "has no tensor 'activation_function.log_jumprelu_threshold'"),
    "nan": (
        "sae_jumprelu",
        {},
        {LOG: lambda v: v * torch.nan},
        (),
        "log_jumprelu_threshold holds numbers that are not",
    ),
    "huge": ("sae_jumprelu", {}, {LOG: lambda v: v + 1000}, (), "logarithms of thresholds that are not finite"),
    "no rule": (
        "sae_jumprelu",
        {"act_fn": "relu"},
        {},
        (),
        "holds 'activation_function.log_jumprelu_thr",
    ),
    "gates": ("sae_glu", {"use_glu_encoder": False}, {}, (), "holds 'W_E_glu', 'b_E_glu', which this"),
    "both": ("sae_glu", {"norm_activation": "token-wise"}, {}, (), "are not read together"),
    "no bias": ("sae_topk", {"use_decoder_bias": False}, {}, (), "holds 'b_D', which this architecture does not have"),
    "no average": ("sae_topk", {}, {}, (AVERAGE + RESID,), f"has no '{AVERAGE}{RESID}', which scales"),
    "average": ("sae_topk", {}, {AVERAGE + RESID: torch.tensor(-2.0)}, (), "must be a mean norm, above 0, got -2"),
    "unsaid": ("sae_topk", {}, {}, ("sparsity_include_decoder_norm",), "has no 'sparsity_include_decoder_norm', only"),
    "source": ("clt_relu", {}, {"W_D.0": lambda w: w.repeat(3, 1, 1)}, (), r"W_D.0 must be \[1, 30, 12\], got \[3, 30"),
    "hooks": ("clt_relu", {"hook_points_out": ["a"]}, {}, (), "as many hook_points_in as hook_points_out, got 3 and 1"),
    "atoms": ("clt_topk", {}, {"W_D.2": lambda w: w / 0}, (), "W_D holds numbers that are not finite"),
    "raw": ("crosscoder_relu", {"sparsity_include_decoder_norm": False}, {}, (), "counts the norms of its atoms"),
    "tiny": ("sae_topk", {}, {AVERAGE + RESID: torch.tensor(1e-20)}, (), "must be a mean norm, above 0, got 1e-20"),
    "length": ("lorsa_topk", {"n_ctx": 1 << 50}, {}, (), r"rotary_sin must be \[1125899906842624, 6\], got \[24, 6\]"),
    "heads": ("lorsa_topk", {"n_qk_heads": 5}, {}, (), "48 heads do not share 5 patterns equally"),
    "rotary": ("lorsa_topk", {"rotary_base": 500}, {}, (), "rotary_sin is not of the rotary_base and rotary_dim in"),
    "pairs": ("lorsa_topk", {"rotary_adjacent_pairs": False}, {}, (), "rotary_sin is not of the rotary_base"),
    "repeated": ("lorsa_topk", {"rotary_scale": 2}, {}, (), "rotary_dim must be even and at most d_qk_head 6"),
    "scores": ("lorsa_still", {"attn_scale": 10**30}, {}, (), "attn_scale divides scores, .* got 1e.30"),
    "eps": ("lorsa_norm", {"eps": 3}, {}, (), "eps must be small beside 1, got 3"),
    "norms": ("lorsa_norm", {"normalization_type": "LN"}, {}, (), "normalization_type must be one of RMS, got 'LN'"),
    "norms off": ("lorsa_norm", {"use_post_qk_ln": False}, {}, (), "holds 'ln_k.w', 'ln_q.w', which this"),
    "learned": ("lorsa_still", {}, {"smolgen.weight": torch.ones(2)}, (), "holds 'smolgen.weight', which this"),
    "parts": (
        "lorsa_ntk",
        {"NTK_by_parts_high_freq_factor": 1.0},
        {},
        (),
        "low_freq_factor must be below the high one",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_it_cannot_mean_is_refused_in_one_line(tmp_path, bad):
    case, config, tensors, drop, words = BAD[bad]
    folder = copied(tmp_path, case, config, tensors, drop)
    with pytest.raises(ValueError, match=words) as error:
        wb.load(folder, site="1.mlp_in")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("case", "words"), [("molt", "its latents write linear maps"), ("batchtopk", "no code of its own")]
)
def test_what_it_writes_and_we_do_not_read_is_named(case, words):
    with pytest.raises(ValueError, match=words):
        wb.load(golden.FOLDER / OWNER / f"refused_{case}")


def test_a_distributed_checkpoint_is_not_opened(tmp_path):
    folder = copied(tmp_path, "sae_topk")
    (folder / FILE).unlink()
    (folder / "sae_weights.dcp").mkdir()
    (folder / "sae_weights.dcp" / ".metadata").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"whose index is a pickle: it is not opened.*save_pretrained"):
        wb.load(folder)


def test_pickled_weights_lie_under_their_name(tmp_path):
    folder = copied(tmp_path, "sae_topk")
    (folder / FILE).unlink()
    torch.save({"sae": [1, 2], "version": "2"}, folder / "sae_weights.pt")
    with pytest.raises(ValueError, match="must hold weights by name under 'sae', got list"):
        wb.load(folder)


def test_safetensors_come_before_pickles_and_checkpoints(tmp_path):
    folder = copied(tmp_path, "sae_topk")
    (folder / "sae_weights.pt").write_bytes(b"not read")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "final.safetensors").write_bytes(b"not read")
    x = golden.expected(OWNER, "sae_topk")["x"]
    assert torch.equal(wb.load(folder).reconstruct(x), golden.opened(OWNER, "sae_topk").reconstruct(x))


def test_settings_that_are_off_may_be_unknown(tmp_path):
    wb.load(copied(tmp_path, "sae_topk", {"skip_bos": False, "promote": None, "strict_loading": True}))


def test_a_folder_without_a_kind_is_somebody_elses(tmp_path):
    with pytest.raises(ValueError, match="no dictionary that we know"):
        wb.load(copied(tmp_path, "sae_topk", drop=("sae_type",)))
    assert formats.load(copied(tmp_path / "own", "sae_jumprelu")).sparsifier.__class__ is Threshold
