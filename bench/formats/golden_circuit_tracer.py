"""Sets and cross-layer transcoders written and run by circuit-tracer, and Gemma Scope's files as its loaders read them.

python bench/formats/parity.py circuit_tracer
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from circuit_tracer.transcoder import cross_layer_transcoder as across
from circuit_tracer.transcoder import single_layer_transcoder as single
from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK
from golden_feed import keep, rows, scatter_
from safetensors.torch import save_file

D, LATENTS, LAYERS, OWNER = 12, 28, 3, "circuit_tracer"
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
AT_MLP = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
BEFORE = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
MID = "model.layers.0.post_attention_layernorm:in"


def thresholds(*shape: int) -> torch.Tensor:
    """Some below 0, where circuit-tracer lets negative values pass."""
    return torch.linspace(-1.0, 3.0, int(np.prod(shape))).reshape(shape)[..., torch.randperm(shape[-1])]


def configured(folder: Path, **config: object) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_name": "Qwen/Qwen3-0.6B", **config}))


def transcoder_sets() -> None:
    """Layer 1 is looked at, of sets of two layers."""
    for case, act, skip, more in (
        ("set_relu", None, False, {}),
        ("set_relu_skip", None, True, {}),
        ("set_jumprelu", "jump", False, {}),
        ("set_jumprelu_skip", "jump", True, {"activation": "jumprelu"}),
        ("set_topk", "topk", False, {"activation": "topk", "k": 18}),
    ):
        made = {}
        for layer in range(2):
            acts = {"jump": JumpReLU(torch.zeros(LATENTS)), "topk": TopK(18), None: torch.nn.functional.relu}
            t = single.SingleLayerTranscoder(D, LATENTS, acts[act], layer, skip_connection=skip, **CPU)
            scatter_(t, 10 + layer)
            if act == "jump":
                t.activation_function.threshold.data.copy_(thresholds(LATENTS))
            made[layer] = t
        whole = single.TranscoderSet(made, **AT_MLP)

        def write(folder: Path, whole=whole, more=more) -> None:
            whole.to_safetensors(str(folder))
            configured(folder, model_kind="transcoder_set", **AT_MLP, **more)

        x = rows(D, seed=1)
        keep(OWNER, case, write, x, whole[1].encode(x), whole[1](x), part="1")


def cross_layer() -> None:
    for case, act, hooks in (("clt_relu", "relu", AT_MLP), ("clt_jumprelu", "jump_relu", BEFORE)):
        t = across.CrossLayerTranscoder(LAYERS, LATENTS, D, act, lazy_decoder=False, **hooks, **CPU)
        scatter_(t, 20)
        if act == "jump_relu":
            t.activation_function.threshold.data.copy_(thresholds(LAYERS, 1, LATENTS))

        def write(folder: Path, t=t, hooks=hooks) -> None:
            t.to_safetensors(str(folder))
            configured(folder, model_kind="cross_layer_transcoder", **hooks)

        kept(case, write, t, **({"site": MID, "target": "0.mlp_out"} if hooks is BEFORE else {}))


def kept(case: str, write, t, **load: str) -> None:
    """A cross-layer case: its rows are (layer, row, d), ours (row, layer, d)."""
    x = rows(LAYERS * D, seed=2).unflatten(1, (LAYERS, D))
    code = t.encode(x.transpose(0, 1))
    y = t.decode(code, x.transpose(0, 1))
    keep(OWNER, case, write, x, code.transpose(0, 1).flatten(1), y.transpose(0, 1), **load)


def weights(seed: int, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    found = {name: 0.3 * torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return found | {"threshold": thresholds(*shapes["b_enc"]).abs()}  # Gemma Scope's own rectify, these loaders do not


def gemma_scope(folder: Path) -> None:
    x = rows(D, seed=3)
    one = {"b_enc": (LATENTS,), "b_dec": (D,)}
    upper = weights(30, W_enc=(D, LATENTS), W_dec=(LATENTS, D), **one)

    def npz(folder: Path) -> None:
        np.savez(folder / "params.npz", **{k: v.numpy() for k, v in upper.items()})

    npz(folder)
    t = single.load_gemma_scope_transcoder(str(folder / "params.npz"), 0, **CPU)
    keep(OWNER, "gemma_scope_1", npz, x, t.encode(x), t(x))

    places = {"hf_hook_point_in": "model.layers.{}.pre_feedforward_layernorm.output",
              "hf_hook_point_out": "model.layers.{}.post_feedforward_layernorm.output"}  # fmt: skip
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "l0": 20}

    def wrote(folder: Path, files: dict[str, dict], layer: str, width: int, kind: str, affine: bool) -> None:
        for name, tensors in files.items():
            save_file(tensors, folder / name)
        named = {k: v.replace("{}", layer) for k, v in places.items()}
        (folder / "config.json").write_text(
            json.dumps(config | named | {"width": width, "type": kind, "affine_connection": affine})
        )

    for affine in (False, True):
        lower = weights(31, w_enc=(D, LATENTS), w_dec=(LATENTS, D), **one)
        if affine:
            lower |= {"affine_skip_connection": 0.3 * torch.randn(D, D)}
        files = {"params.safetensors": lower}
        wrote(folder, files, "7", LATENTS, "transcoder", affine)
        t = single.load_gemma_scope_2_transcoder(str(folder / "params.safetensors"), 0, **CPU)
        case = "gemma_scope_2_transcoder" + "_affine" * affine
        keep(
            OWNER, case, lambda f, a=affine, fs=files: wrote(f, fs, "7", LATENTS, "transcoder", a), x, t.encode(x), t(x)
        )
    for affine in (False, True):
        files = {}
        for layer in range(LAYERS):
            each = weights(40 + layer, w_enc=(D, LATENTS), w_dec=(LATENTS, LAYERS, D), **one)
            each["w_dec"][:, :layer] = 0  # this loader cuts what would go to earlier layers
            if affine:
                each |= {"affine_skip_connection": 0.3 * torch.randn(D, D)}
            files[f"params_layer_{layer}.safetensors"] = each
        wrote(folder, files, "{all}", LATENTS * LAYERS, "clt", affine)
        # it leaves the last path out, so that one more is given, as its published configurations have it
        paths = {i: str(folder / f"params_layer_{min(i, LAYERS - 1)}.safetensors") for i in range(LAYERS + 1)}
        t = across.load_gemma_scope_2_clt(paths, **CPU)
        case = "gemma_scope_2_clt" + "_affine" * affine
        kept(case, lambda f, a=affine, fs=files: wrote(f, fs, "{all}", LATENTS * LAYERS, "clt", a), t)


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad(), tempfile.TemporaryDirectory() as some:
        transcoder_sets()
        cross_layer()
        gemma_scope(Path(some))
