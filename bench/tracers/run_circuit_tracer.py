"""circuit-tracer: `attribute` on a model from a folder and transcoders from a file; its nnsight backend.

    python run_circuit_tracer.py JOB.json        a line of JSON: seconds and peak bytes above the loaded model

Its rule for position 0 (no latents there) is switched off, as it is on our side: what is compared is the algorithm.
"""

import ctypes
import gc
import json
import sys
import time
from pathlib import Path

import torch
from circuit_tracer import attribute
from circuit_tracer.replacement_model.replacement_model_nnsight import NNSightReplacementModel
from circuit_tracer.transcoder import SingleLayerTranscoder, TranscoderSet
from circuit_tracer.transcoder.activation_functions import TopK
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "peers"))
from feed import reset, status


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    weights, parts = load_file(job["transcoders"]), {}
    for layer in range(job["layers"]):
        latents, d = weights[f"{layer}.W_enc"].shape
        gate = nn.Sequential(nn.ReLU(), TopK(job["k"]))
        part = SingleLayerTranscoder(d, latents, gate, layer, skip_connection=True, device=torch.device("cpu"),
                                     dtype=torch.float32)  # fmt: skip
        own = {name: weights[f"{layer}.{name}"] for name in ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip")}
        part.load_state_dict(own)
        parts[layer] = part
    transcoders = TranscoderSet(parts, "mlp.hook_in", "mlp.hook_out", scan="none")
    model = NNSightReplacementModel.from_pretrained_and_transcoders(
        job["model"], transcoders, device=torch.device("cpu"), dtype=torch.float32
    )
    model.zero_positions = slice(0, 0)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    reset()
    began = time.perf_counter()
    graph = attribute(
        torch.tensor(job["ids"]),
        model,
        batch_size=job["batch"],
        max_feature_nodes=job["budget"],
        desired_logit_prob=0.95,
    )
    seconds = time.perf_counter() - began
    peak = status("VmHWM") - before
    kept = graph.active_features[graph.selected_features]
    save_file(
        {
            "edges": graph.adjacency_matrix.contiguous(),
            "latents": kept.contiguous(),  # (layer, pos, latent)
            "logits": torch.tensor([target.vocab_idx for target in graph.logit_targets]),
        },
        job["out"],
    )
    print(json.dumps({"seconds": seconds, "peak": peak, "active": len(graph.active_features)}))


if __name__ == "__main__":
    main()
