"""State dicts by overcomplete 0.3.0, and what its classes compute once they are loaded: `.train().eval()`.

    python bench/formats/parity.py overcomplete

The library saves nothing itself. `config.json` beside the file is ours: what the state dict does not say.
"""

import json
from pathlib import Path

import torch

# it imports torchvision for its vision models, and the registry's build, made for CUDA, asks for these two operators
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from golden_feed import keep, rows, scatter_  # noqa: E402
from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, MpSAE, RAJumpSAE, RATopKSAE, TopKSAE  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

D, F, POINTS = 10, 28, 40


def inputs() -> torch.Tensor:
    x = rows(D)
    x[0, 0] = 1.0  # one entry, of the first row and latent, lies at a threshold exactly
    return x


@torch.no_grad()
def case(name: str, cls, said: dict | None, *, file: str = "sae.pt", make=None, **args) -> None:
    """`make` changes a drawn instance; `said` is `config.json`."""
    sae = cls(D, F, **args)
    scatter_(sae)
    sae.dictionary.multiplier.fill_(0.3)
    if make is not None:
        make(sae)
    state = {key: value.clone() for key, value in sae.state_dict().items()}
    again = cls(D, F, **args)  # as a user who loads it
    if make is not None:
        make(again)
    again.load_state_dict(state)
    again.train().eval()
    if cls is BatchTopKSAE:
        again.running_threshold = torch.tensor(said["running_threshold"])
    x = inputs()
    _, code = again.encode(x)

    def write(folder: Path) -> None:
        save_file(state, folder / file) if file.endswith(".safetensors") else torch.save(state, folder / file)
        if said is not None:
            (folder / "config.json").write_text(json.dumps(said))

    keep("overcomplete", name, write, x, code, again.decode(code))


def passing(sae) -> None:
    """Latent 0 sees coordinate 0 alone, so that one entry lies at 1 exactly."""
    linear = sae.encoder.final_block[0]
    linear.weight[0], linear.weight[0, 0], linear.bias[0] = 0, 1, 0
    if hasattr(sae, "thresholds"):
        sae.thresholds[0] = 0


def near(sae) -> None:
    """Atoms as one step of training after a forward pass leaves them, multiplier not in use."""
    weights = sae.dictionary._weights
    weights.copy_(weights / weights.norm(dim=1, keepdim=True) * torch.linspace(0.98, 1.02, F)[:, None])
    sae.dictionary.multiplier.zero_()


def scaled(how: str) -> dict:
    return {"dictionary_params": {"normalization": how}}


l2, points = scaled("l2"), rows(D, POINTS, seed=3)
case("sae", SAE, {"class": "SAE"} | l2)
case("sae_near", SAE, {"class": "SAE", "hook": "blocks.2.hook_resid_post", "model": "gpt2"}, make=near)
for how in ("max_l2", "l1", "max_l1", "identity"):
    case(f"sae_{how}", SAE, {"class": "SAE", "nb_concepts": F, "input_shape": D} | scaled(how), **scaled(how))
case("topk", TopKSAE, {"class": "TopKSAE", "top_k": 16} | l2, top_k=16, file="topk.safetensors")
case("batch_topk", BatchTopKSAE, {"class": "BatchTopKSAE", "running_threshold": 1.0} | l2, make=passing)
case("jump", JumpSAE, l2, make=passing, dictionary_params={"use_multiplier": True})
case("tied", TopKSAE, {"class": "TopKSAE", "top_k": 5} | l2, top_k=5, make=lambda sae: sae.tied())
case("tied_bias", SAE, {"class": "SAE"} | l2, make=lambda sae: (sae.tied(bias=True), scatter_(sae.encoder, 4)))
case("untied", SAE, {"class": "SAE"} | l2, make=lambda sae: (sae.untied(bias=True), scatter_(sae.encoder, 4)))
case("untied_plain", JumpSAE, l2, make=lambda sae: (sae.untied(), scatter_(sae.encoder, 4)))
case("ra_topk", RATopKSAE, {"class": "RATopKSAE", "top_k": 6, "delta": 0.7}, points=points, top_k=6, delta=0.7)
case("ra_jump", RAJumpSAE, {"delta": 2.0}, points=points, delta=2.0, make=passing)
case(
    "ra_hull",
    RATopKSAE,
    {"class": "RATopKSAE", "top_k": 6},
    points=points,
    top_k=6,
    make=lambda sae: sae.dictionary.Relax.zero_(),
)
case("pursuit", MpSAE, {"class": "MpSAE", "k": 9} | l2, k=9)
case("pursuit_negative", MpSAE, {"class": "MpSAE", "k": 3} | l2, k=3, make=lambda sae: sae.dictionary._weights.abs_())
