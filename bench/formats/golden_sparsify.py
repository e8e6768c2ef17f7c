"""Checkpoints by sparsify 1.3.3: `SparseCoder.save_to_disk`, and what `encode` and `decode` compute.

    python bench/formats/parity.py sparsify

Folders are hookpoints, as its trainer writes them. With `multi_topk` its `forward` decodes 4 k latents, for the loss of
that term; what a dictionary is used by is `encode`.
"""

import json

import torch
from golden_feed import FOLDER, keep, rows, scatter_
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

D = 12


def made(**more) -> SparseCoder:
    coder = SparseCoder(D, SparseCoderConfig(**{"k": 4, "expansion_factor": 3} | more))
    scatter_(coder)
    return coder


@torch.no_grad()
def case(name: str, place: str, coder: SparseCoder, dtype: torch.dtype = torch.float32, **load) -> None:
    x = rows(D)
    values, indices, _ = coder.encode(x)
    y = coder.decode(values, indices)
    if coder.W_skip is not None:
        y = y + x @ coder.W_skip.mT
    code = torch.zeros(len(x), coder.num_latents).scatter(1, indices, values)
    if not coder.cfg.multi_topk:
        assert torch.equal(y, coder(x).sae_out)
    keep("sparsify", name, lambda folder: coder.to(dtype).save_to_disk(folder / place), x, code, y, part=place, **load)


case("topk", "layers.3", made())
case("num_latents", "h.0.mlp", made(num_latents=30, normalize_decoder=False, k=20))
case("groupmax", "layers.3.attention", made(activation="groupmax", k=12))
case("multi_topk", "layers.3/seed1", made(multi_topk=True))
case("skip", "gpt_neox.layers.3.mlp", made(skip_connection=True))
case("transcoder", "layers.3.mlp", made(transcode=True))
case("transcoder_groupmax_skip", "layers.11.mlp", made(transcode=True, skip_connection=True, activation="groupmax"))

coder = made()
with torch.no_grad():
    for parameter in coder.parameters():  # so that half precision says the same
        parameter.copy_(parameter.bfloat16().float())
case("bfloat16", "layers.3", coder, torch.bfloat16)

# before 1.0 a `signed` dictionary kept the k largest by magnitude; 1.3.3 drops the word, so its parts are used here
coder = made()
case("signed", "layers.3", coder)
folder = FOLDER / "sparsify" / "signed"
config = json.loads((folder / "checkpoint/layers.3/cfg.json").read_text())
for name in ("activation", "multi_topk", "skip_connection", "transcode"):
    del config[name]
(folder / "checkpoint/layers.3/cfg.json").write_text(json.dumps(config | {"signed": True}))
kept = load_file(folder / "expected.safetensors")
with torch.no_grad():
    pre = coder.encoder(kept["x"] - coder.b_dec)
    indices = pre.abs().topk(coder.cfg.k, sorted=False).indices
    kept["code"] = torch.zeros_like(pre).scatter(1, indices, pre.gather(1, indices))
    kept["y"] = coder.decode(pre.gather(1, indices), indices)
assert (kept["code"] < 0).any()
save_file(kept, folder / "expected.safetensors")

# a run's folder as its trainer writes it: three hookpoints, and files that are no dictionaries
run = FOLDER / "sparsify" / "_run"
for place in ("layers.2.mlp", "layers.10.mlp", "layers.2"):
    made(transcode=place.endswith("mlp"), expansion_factor=1, num_latents=16).save_to_disk(run / place)
(run / "config.json").write_text('{"sae": {"k": 4}, "hookpoints": ["layers.2.mlp"]}')
torch.save({"global_step": 7}, run / "state.pt")
