"""SAELens: every architecture, normalisation and checkpoint that it writes, and the layouts of before 6.

Parameters are drawn anew, biases and thresholds too; the code is SAELens's own on rows as a model gives them.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import golden_feed
import torch
from golden_feed import keep, rows
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from safetensors.torch import load_file, save_file

D, OUT, LATENTS = 12, 10, 20
HOOK = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_pre"}
ACROSS = HOOK | {"hook_name_out": "blocks.3.hook_mlp_out"}
FROM_NORM = {
    "model_name": "gpt2",
    "hook_name": "blocks.3.ln2.hook_normalized",
    "hook_name_out": "blocks.3.hook_mlp_out",
}
ATTENTION = {"model_name": "gpt2", "hook_name": "blocks.5.attn.hook_z"}
TEMPORAL = {"d_sae": 32, "n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 4}


@torch.no_grad()
def made(architecture: str, *, training: bool = False, meta: Any = HOOK, **args: Any) -> Any:
    """An autoencoder of SAELens with parameters drawn at random, thresholds wide enough to matter."""
    kind, config = (get_sae_training_class if training else get_sae_class)(architecture)
    if "transcoder" in architecture:
        args = {"d_out": OUT, "apply_b_dec_to_input": False, "meta": ACROSS} | args
    sae = kind(config(**{"d_in": D, "d_sae": LATENTS, "metadata": SAEMetadata(**args.pop("meta", meta))} | args))
    golden_feed.scatter_(sae, seed=1)
    if hasattr(sae, "threshold"):
        sae.threshold.mul_(5)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(1.7)  # no float32
    return sae.eval()


@torch.no_grad()
def plain(case: str, sae: Any, x: torch.Tensor, **load: Any) -> None:
    """As inference runs it."""
    keep("sae_lens", case, sae.save_model, x, sae.encode(x), sae(x), **load)


@torch.no_grad()
def heads(case: str, sae: Any, x: torch.Tensor) -> None:
    """Rows by head for SAELens, concatenated for us."""
    z = x.unflatten(-1, (3, -1))
    keep("sae_lens", case, sae.save_model, x, sae.encode(z), sae(z).flatten(1))


@torch.no_grad()
def text(case: str, sae: Any, x: torch.Tensor) -> None:
    """All rows are one text, in order."""
    keep("sae_lens", case, sae.save_model, x, sae.encode(x[None])[0], sae(x[None])[0])


@torch.no_grad()
def checkpoint(case: str, sae: Any, x: torch.Tensor, scaler: ActivationScaler) -> None:
    """In the middle of a run: what inference makes of it, between the scaler's two sides."""
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        inference = SAE.load_from_disk(folder)
    code = inference.encode(scaler.scale(x))

    def write(folder: Path) -> None:
        sae.save_model(folder)
        scaler.save(str(folder / "activation_scaler.json"))
        loaded = TrainingSAE.load_from_disk(folder)  # it reads its own
        assert set(loaded.state_dict()) == set(sae.state_dict())

    keep("sae_lens", case, write, x, code, scaler.unscale(inference.decode(code)))


def whitening() -> ActivationScaler:
    rng = torch.Generator().manual_seed(3)
    matrix = torch.eye(D) + 0.3 * torch.randn(D, D, generator=rng)
    mean = torch.randn(D, generator=rng).double()
    matrix = matrix.double()
    return ActivationScaler(whitening=ActivationWhitening(mean, matrix, torch.linalg.inv(matrix).contiguous()))


@torch.no_grad()
def old(case: str, x: torch.Tensor, config: dict[str, Any], tensors: dict[str, torch.Tensor], **more: Any) -> None:
    """A folder as SAELens wrote it before 6, which the present one opens and runs."""
    config = {
        "d_in": D,
        "d_sae": LATENTS,
        "dtype": "torch.float32",
        "device": "cpu",
        "model_name": "gpt2-small",
    } | config

    def write(folder: Path) -> None:
        (folder / "cfg.json").write_text(json.dumps(config))
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "sae_weights.safetensors")

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        sae = SAE.load_from_disk(folder)
    rows_of = x.unflatten(-1, (3, -1)) if sae.cfg.reshape_activations == "hook_z" else x
    keep("sae_lens", case, write, x, sae.encode(rows_of), sae(rows_of).flatten(1), **more)


def main() -> None:
    x, small = rows(D), rows(D, seed=5, size=0.2)  # where the 1e-5 that is added to a deviation can be seen
    for name in ("standard", "gated", "jumprelu"):
        plain(name, made(name), x)
    plain("standard_uncentred", made("standard", apply_b_dec_to_input=False), x)
    plain("jumprelu_uncentred", made("jumprelu", apply_b_dec_to_input=False), x)
    for name in ("topk", "abstopk"):
        plain(name, made(name, k=4), x)
        plain(f"{name}_rescaled", made(name, k=4, rescale_acts_by_decoder_norm=True), x)
    for name in ("transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        plain(name, made(name), x)
    plain("skip_transcoder", made("skip_transcoder", meta=FROM_NORM), x, site="3.mlp_in")
    plain("transcoder_layer_norm", made("transcoder", normalize_activations="layer_norm"), small)
    plain("jumprelu_transcoder_norm", made("jumprelu_transcoder", normalize_activations="constant_norm_rescale"), x)

    plain("standard_layer_norm", made("standard", normalize_activations="layer_norm"), x)
    plain("gated_layer_norm", made("gated", normalize_activations="layer_norm"), small)
    plain(
        "topk_layer_norm", made("topk", k=4, rescale_acts_by_decoder_norm=True, normalize_activations="layer_norm"), x
    )
    plain("jumprelu_norm", made("jumprelu", normalize_activations="constant_norm_rescale"), x)
    uncentred = {"apply_b_dec_to_input": False, "normalize_activations": "constant_norm_rescale"}
    plain("abstopk_norm_uncentred", made("abstopk", k=4, **uncentred), x)

    heads("hook_z", made("standard", reshape_activations="hook_z", meta=ATTENTION), x)
    norm = {"reshape_activations": "hook_z", "normalize_activations": "constant_norm_rescale"}
    heads("hook_z_norm", made("jumprelu", meta=ATTENTION, **norm), x)

    plain("matching_pursuit", made("matching_pursuit", residual_threshold=4.0, max_iterations=8), x)
    loose = {"stop_on_duplicate_support": False, "residual_threshold": 0.0}
    plain(
        "matching_pursuit_uncentred", made("matching_pursuit", apply_b_dec_to_input=False, max_iterations=5, **loose), x
    )
    pursuit = made("matching_pursuit", normalize_activations="layer_norm", residual_threshold=1.0)
    pursuit.W_dec.data /= pursuit.W_dec.data.norm(dim=-1, keepdim=True)  # all d steps are taken
    plain("matching_pursuit_layer_norm", pursuit, x)

    scaled = {"normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": 0.37}
    text("temporal", made("temporal", kval_topk=5, **TEMPORAL, **scaled), x)
    untied = {"tied_weights": False, "apply_b_dec_to_input": False, "sae_diff_type": "relu"}
    text("temporal_untied_relu", made("temporal", **TEMPORAL, **untied), x)
    text("temporal_tied_uncentred", made("temporal", kval_topk=5, apply_b_dec_to_input=False, **TEMPORAL), x)
    text("temporal_norm", made("temporal", kval_topk=5, normalize_activations="constant_norm_rescale", **TEMPORAL), x)

    expected, white = (
        {"normalize_activations": "expected_average_only_in"},
        {"normalize_activations": "covariance_whitening"},
    )
    nothing, scale = ActivationScaler(), ActivationScaler(scaling_factor=0.41)
    checkpoint("training_standard_scaled", made("standard", training=True, **expected), x, scale)
    checkpoint("training_batchtopk", made("batchtopk", training=True, k=3.5), x, nothing)
    checkpoint("training_batchtopk_scaled", made("batchtopk", training=True, k=3.5, **expected), x, scale)
    as_is = {"rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False}
    checkpoint("training_batchtopk_not_rescaled", made("batchtopk", training=True, k=3.5, **as_is), x, nothing)
    widths = {"k": 3.5, "matryoshka_widths": [5, 10, LATENTS]}
    checkpoint("training_matryoshka_batchtopk", made("matryoshka_batchtopk", training=True, **widths), x, nothing)
    checkpoint("training_topk_whitened", made("topk", training=True, k=4, **white), x, whitening())
    checkpoint("training_batchtopk_whitened", made("batchtopk", training=True, k=3.5, **white), x, whitening())
    checkpoint("training_abstopk", made("abstopk", training=True, k=4), x, nothing)
    uncentred = {"apply_b_dec_to_input": False}
    checkpoint("training_gated_whitened", made("gated", training=True, **uncentred, **white), x, whitening())
    checkpoint("training_standard_whitened", made("standard", training=True, **uncentred, **white), x, whitening())
    checkpoint("training_jumprelu", made("jumprelu", training=True), x, nothing)
    matching = {"residual_threshold": 1.5, "max_iterations": 8, "decoder_init_norm": 1.0}
    checkpoint(
        "training_matching_pursuit_scaled", made("matching_pursuit", training=True, **matching, **expected), x, scale
    )
    with tempfile.TemporaryDirectory() as folder:
        made("batchtopk", training=True, k=3.5).save_inference_model(folder)
        batched = SAE.load_from_disk(folder)
    plain("batchtopk_saved_for_inference", batched, x)

    standard, gated, jumprelu = (made(name).state_dict() for name in ("standard", "gated", "jumprelu"))
    flat = {"hook_point": "blocks.3.hook_resid_pre", "hook_point_layer": 3, "hook_point_head_index": None}
    ones = {"scaling_factor": torch.ones(LATENTS)}
    old("old_standard", x, flat | {"normalize_activations": False, "use_ghost_grads": True}, standard | ones)
    named = {"hook_name": "blocks.3.hook_resid_pre", "hook_layer": 3, "sae_lens_training_version": "5.3.0"}
    layered = {"normalize_activations": "layer_norm", "apply_b_dec_to_input": False, "activation_fn_str": "relu"}
    old("old_layer_norm_uncentred", x, named | layered | {"architecture": "standard"}, standard)
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": "none"}
    old("old_topk", x, named | topk | {"architecture": "standard"}, standard)
    old("old_gated", x, named | {"architecture": "gated", "activation_fn_str": "relu"}, gated)
    old("old_jumprelu", x, named | {"architecture": "jumprelu", "sae_lens_version": "5.11.0"}, jumprelu)
    old("old_hook_z", x, flat | {"hook_point": "blocks.5.attn.hook_z", "normalize_activations": None}, standard)
    logged(x)


@torch.no_grad()
def logged(x: torch.Tensor) -> None:
    """A JumpReLU checkpoint of earlier versions 6, which kept the logarithm of its thresholds."""
    sae = made("jumprelu", training=True)
    sae.threshold.abs_()

    def write(folder: Path) -> None:
        sae.save_model(folder)
        held = load_file(folder / "sae_weights.safetensors")
        held["log_threshold"] = held.pop("threshold").log()
        save_file(held, folder / "sae_weights.safetensors")
        cfg = json.loads((folder / "cfg.json").read_text())
        cfg["metadata"]["sae_lens_version"] = "6.2.0"
        (folder / "cfg.json").write_text(json.dumps(cfg))
        loaded = TrainingSAE.load_from_disk(folder)
        torch.testing.assert_close(loaded.encode(x), sae.encode(x))

    keep("sae_lens", "training_jumprelu_log_threshold", write, x, sae.encode(x), sae(x))


if __name__ == "__main__":
    main()
