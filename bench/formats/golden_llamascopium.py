"""SAEs, crosscoders, cross-layer transcoders and Lorsas written and run by llamascopium.

python bench/formats/parity.py llamascopium
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from golden_feed import FOLDER, keep, rows, scatter_
from llamascopium import CLTConfig, CrosscoderConfig, LanguageModelConfig, LorsaConfig, MOLTConfig, SAEConfig
from llamascopium.activation_functions import JumpReLU
from llamascopium.models.sparse_dictionary import SparseDictionary

D, OWNER = 12, "llamascopium"
RESID, MID, OUT = "blocks.1.hook_resid_post", "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
PRE, ATTN = "blocks.2.ln1.hook_normalized", "blocks.2.hook_attn_out"
WISE, FIXED, TOKEN = ({"norm_activation": how} for how in ("dataset-wise", "inference", "token-wise"))
RAW = {"sparsity_include_decoder_norm": False}
SIZE = {"d_model": D, "expansion_factor": 2.5}
WIDE = {"d_model": D, "expansion_factor": 4}


def made(config: Any, seed: int) -> SparseDictionary:
    """Parameters drawn anew; average norms that differ between places, thresholds around what h x norm is."""
    model = SparseDictionary.from_config(config)
    scatter_(model, seed, 0.3 if config.sae_type == "lorsa" else 0.4)
    if isinstance(model.activation_function, JumpReLU):
        log = model.activation_function.log_jumprelu_threshold.data
        log.copy_(torch.linspace(-2.0, 1.5, log.numel())[torch.randperm(log.numel())].view_as(log))
    if config.norm_activation == "dataset-wise":
        hooks = dict.fromkeys(config.associated_hook_points)
        model.set_dataset_average_activation_norm({hook: 2.0 + 1.7 * i for i, hook in enumerate(hooks)})
    return model


@torch.no_grad()
def ran(model: SparseDictionary, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Code (row, latent) and reconstruction (row, site, d), by its own scaling there and back."""
    kind, hooks = model.cfg.sae_type, model.cfg.hooks_out
    scaled, scales = model.normalize_activations(batch, return_scale_factor=True)
    code = model.encode(model.prepare_input(scaled)[0])
    y = model.decode(code, batch_first=True) if kind == "clt" else model.decode(code)
    if kind in ("sae", "lorsa"):
        return code, model.denormalize_activations({hooks[0]: y}, scales)[hooks[0]]
    y = torch.stack([y[:, i] / scales[hook] for i, hook in enumerate(hooks)], 1)
    if kind == "crosscoder" and model.cfg.act_fn == "relu":
        assert torch.allclose(code, code[:, :1].expand_as(code), rtol=1e-5)  # the same at each site
        return code[:, 0], y
    return code.flatten(1), y


def kept(case: str, config: Any, *, fold: bool = False, name: str = "", **load: Any) -> None:
    torch.manual_seed(1)
    model = made(config, len(case))
    kind, places = config.sae_type, dict.fromkeys([*config.hooks_in, *config.hooks_out])
    batch = {hook: rows(D, n=20, seed=i + 3) for i, hook in enumerate(places)}
    if kind == "lorsa":
        batch = {hook: value[None] / 3 for hook, value in batch.items()}  # one text; patterns that are not all or none
    code, y = ran(model, batch)
    x = model.prepare_input(batch)[0]
    if kind == "lorsa":
        x, code, y = x[0], code[0], y[0]

    def write(folder: Path) -> None:
        if name:
            model.save_checkpoint(folder / name)
        else:
            model.save_pretrained(folder, fold_activation_scale=fold)
        model.cfg.save_hyperparameters(folder)

    if fold:  # ReLU's code goes with the scale; what is written is what counts
        model.standardize_parameters_of_dataset_norm()
        fold = False
        folded, again = ran(model, batch)
        assert torch.allclose(again, y, atol=1e-4)
        code = folded
    keep(OWNER, case, write, x, code, y, **load)


def saes() -> None:
    def one(**more: Any) -> SAEConfig:
        return SAEConfig(**({"hook_point_in": RESID, "hook_point_out": RESID} | SIZE | more))

    kept("sae_relu_folded", one(act_fn="relu", **WISE), fold=True)
    kept("sae_jumprelu", one(act_fn="jumprelu", **WISE))
    kept("sae_jumprelu_raw", one(act_fn="jumprelu", use_decoder_bias=False, **RAW, **FIXED))
    kept("sae_topk", one(act_fn="topk", top_k=5, **WISE))
    kept("sae_topk_raw_pt", one(act_fn="topk", top_k=5, **RAW, **FIXED), name="sae_weights.pt")
    kept("sae_token_wise", one(act_fn="jumprelu", **TOKEN))
    kept("sae_token_wise_topk", one(act_fn="topk", top_k=5, **TOKEN))
    kept("sae_glu", one(act_fn="jumprelu", use_glu_encoder=True, **WISE))
    pair = {"hook_point_in": MID, "hook_point_out": OUT}
    kept("transcoder_jumprelu", one(act_fn="jumprelu", **pair, **WISE), site="1.mlp_in")
    kept("transcoder_relu", one(act_fn="relu", use_decoder_bias=False, **pair, **WISE), site="1.mlp_in")
    LanguageModelConfig(model_name="gpt2").save_lm_config(str(FOLDER / OWNER / "transcoder_relu" / "checkpoint"))


def crosscoders() -> None:
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    for case, more in (
        ("crosscoder_relu", {"act_fn": "relu"} | WISE),
        ("crosscoder_jumprelu", {"act_fn": "jumprelu"} | WISE),
        ("crosscoder_topk", {"act_fn": "topk", "top_k": 4} | FIXED),
    ):
        kept(case, CrosscoderConfig(hook_points=hooks, **SIZE, **more))


def crosslayer() -> None:
    hooks = {
        "hook_points_in": [f"blocks.{i}.ln2.hook_normalized" for i in range(3)],
        "hook_points_out": [f"blocks.{i}.hook_mlp_out" for i in range(3)],
    }
    for case, more in (
        ("clt_relu", {"act_fn": "relu"} | FIXED),
        ("clt_jumprelu", {"act_fn": "jumprelu"} | WISE),
        ("clt_jumprelu_raw", {"act_fn": "jumprelu"} | RAW | FIXED),
        ("clt_topk", {"act_fn": "topk", "top_k": 4} | WISE),
        ("clt_topk_raw", {"act_fn": "topk", "top_k": 4} | RAW | FIXED),
        ("clt_layertopk", {"act_fn": "layertopk", "top_k": 9} | WISE),
    ):
        kept(case, CLTConfig(**hooks, **SIZE, **more))


def lorsas() -> None:
    base = {"hook_point_in": PRE, "hook_point_out": ATTN, "n_qk_heads": 4, "d_qk_head": 6, "n_ctx": 24}
    norm = {"use_post_qk_ln": True, "normalization_type": "RMS", "eps": 1e-4}
    ntk = {"use_NTK_by_parts_rope": True, "NTK_by_parts_factor": 8.0, "NTK_by_parts_low_freq_factor": 1.0}
    ntk |= {"NTK_by_parts_high_freq_factor": 4.0, "old_context_len": 64}
    for case, more in (
        ("lorsa_topk", {"act_fn": "topk", "top_k": 7, "rotary_dim": 6} | WISE),
        ("lorsa_norm", {"act_fn": "jumprelu", "rotary_dim": 4, "rotary_adjacent_pairs": False} | norm | FIXED),
        ("lorsa_ntk", {"act_fn": "jumprelu", "rotary_dim": 6, "rotary_base": 500} | ntk | WISE),
        (
            "lorsa_still",
            {"act_fn": "relu", "rotary_dim": 6, "positional_embedding_type": "none", "attn_scale": 1.3} | RAW | FIXED,
        ),
    ):
        kept(case, LorsaConfig(**base, **WIDE, **more), site="2.attn_in")


def refused() -> None:
    """What it writes and we do not read."""
    molt = MOLTConfig(hook_point_in=MID, hook_point_out=OUT, d_model=D, expansion_factor=1.0, rank_counts={1: 8, 2: 4})
    batch = SAEConfig(hook_point_in=RESID, hook_point_out=RESID, act_fn="batchtopk", top_k=3, **SIZE)
    for case, config in (("refused_molt", molt), ("refused_batchtopk", batch)):
        folder = FOLDER / OWNER / case
        shutil.rmtree(folder, ignore_errors=True)
        model = made(config, 1)
        model.save_pretrained(folder)
        config.save_hyperparameters(folder)


if __name__ == "__main__":
    saes()
    crosscoders()
    crosslayer()
    lorsas()
    refused()
    print(json.dumps(sorted(path.name for path in (FOLDER / OWNER).iterdir())))
