"""Does circuit-tracer load what we write, and compute the same? Written here, looked at in its own environment.

python bench/formats/check_circuit_tracer.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D, LATENTS, LAYERS = 12, 28, 3


def drawn(module, seed: int):
    rng = torch.Generator().manual_seed(seed)
    for value in module.state_dict(keep_vars=True).values():
        if value.is_floating_point() and value.ndim:
            value.data = 0.3 * torch.randn(value.shape, generator=rng)
    module.set_scale_(0.7, 1.9)
    return module


def write(folder: Path) -> None:
    from workbench.dictionary import Dictionary, decoders, encoders, formats, sparsifiers
    from workbench.dictionary.formats._parts import Skip, Threshold
    from workbench.dictionary.variants.crosslayer_transcoder import Layers, later
    from workbench.site import Site

    kinds = {
        "relu": sparsifiers.ReLU,
        "jumprelu": lambda n=LATENTS: sparsifiers.JumpReLU(n, init=0.1, width=0.1),
        "signed": lambda n=LATENTS: Threshold(n, signed=True),
        "rectified": lambda n=LATENTS: Threshold(n),
    }
    for name, kind in kinds.items():
        found, x = {}, 2 * torch.randn(20, LAYERS, D)
        for layer in range(LAYERS):
            parts = encoders.Linear((D,), LATENTS, center=name == "relu"), kind(), decoders.Linear(LATENTS, (D,))
            d = drawn(Dictionary(*parts, Skip(D, D) if name == "signed" else None), layer).freeze()
            d.site, d.target = Site(layer, "mlp_in"), Site(layer, "mlp_out")
            formats.write(d, folder / name, "circuit_tracer")
            found |= {f"code_{layer}": d.encode(x[:, layer]).to_dense(), f"y_{layer}": d.reconstruct(x[:, layer])}
        save_file({"x": x, **found}, folder / f"{name}.expected.safetensors")
        n = LAYERS * LATENTS
        parts = Layers(LAYERS, D, n), kind(*[n] * (name != "relu")), decoders.Linear(n, (LAYERS, D), unit=False)
        d = drawn(Dictionary(*parts), 7)
        d.decoder.weight.data *= later(LAYERS, D, n)
        formats.write(d.freeze(), folder / f"clt_{name}", "circuit_tracer")
        found = {"x": x, "code": d.encode(x).to_dense(), "y": d.reconstruct(x)}
        save_file(found, folder / f"clt_{name}.expected.safetensors")


@torch.no_grad()
def look(folder: Path) -> None:
    from circuit_tracer.utils.caching import load_transcoders_from_cache

    for path in sorted(folder.glob("*.expected.safetensors")):
        name, want = path.name.partition(".")[0], load_file(path)
        where = {"cache_dir": folder, "device": torch.device("cpu"), "dtype": torch.float32}
        for lazy in (False, True):
            t, config = load_transcoders_from_cache(name, lazy_encoder=lazy, lazy_decoder=lazy, **where)
            x = want["x"].transpose(0, 1)
            if name.startswith("clt"):
                code = t.encode(x) if not lazy else torch.stack([t.encode_layer(x[i], i) for i in range(LAYERS)])
                y = t.decode(code, x).transpose(0, 1)
                pairs = [(code.transpose(0, 1).flatten(1), want["code"]), (y, want["y"])]
            else:
                pairs = [(t[i].encode(x[i]), want[f"code_{i}"]) for i in range(LAYERS)]
                pairs += [(t[i](x[i]), want[f"y_{i}"]) for i in range(LAYERS)]
            off = max(float((a - b).abs().max()) for a, b in pairs)
            assert all(torch.equal(a != 0, b != 0) for a, b in pairs) and off < 1e-5, (name, off)
            hooks = config["feature_input_hook"], config["feature_output_hook"]
            print(f"{name:16} lazy={lazy!s:5} {type(t).__name__:22} {' to '.join(hooks)}: off by {off:.1e}")


if __name__ == "__main__":
    torch.manual_seed(0)
    if len(sys.argv) == 2:
        look(Path(sys.argv[1]))
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
        from install import python

        with tempfile.TemporaryDirectory() as where:
            write(Path(where))
            subprocess.run([python("circuit_tracer"), __file__, where], check=True)
