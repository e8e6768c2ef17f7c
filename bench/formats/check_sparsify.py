"""What we write as sparsify's folders, sparsify 1.3.3 loads and computes the same.

    python bench/formats/check_sparsify.py

Writes dictionaries that were read from it, and our own recipes, some with scales, then loads them in sparsify's
environment (`python bench/peers/install.py sparsify`). Raises AssertionError where a value differs by more than 1e-5.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D, F, HERE = 10, 24, Path(__file__)
GOLDEN = HERE.parent.parent.parent / "tests" / "golden" / "sparsify"


def made(name, site=None, target=None, scale=None, **args):
    """One of our recipes with drawn weights."""
    import workbench as wb
    from workbench.site import Site

    dictionary = wb.recipe(name, **{"d": D, "latents": F, "k": 5} | args).dictionary
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    if scale is not None:
        dictionary.set_scale_(*scale)
    dictionary.site, dictionary.target = (None if s is None else Site.of(s) for s in (site, target))
    return dictionary.freeze()


def ours():
    """Name, the place that the folder is named for, and the dictionary."""
    import workbench as wb

    for case in sorted(path.parent.name for path in GOLDEN.glob("*/load.json")):
        if case != "signed":
            folder = next((GOLDEN / case / "checkpoint").rglob("cfg.json")).parent
            yield f"read_{case}", folder.name, wb.load(folder, format="sparsify")
    yield "topk", "layers.3", made("topk_auxk", "3.resid")
    yield "topk_scaled", "layers.3", made("topk_auxk", "3.resid", scale=(0.4, 0.4))
    yield "topk_two_scales", "layers.3", made("topk_auxk", "3.resid", scale=(0.5, 2.0))
    yield "multi_topk", "layers.3", made("topk_multi", "3.resid")
    yield "group_max", "h.2.mlp", made("group_max", "2.mlp_out", k=6)
    yield "transcoder", "layers.3.mlp", made("skip_transcoder", "3.mlp_in", "3.mlp_out", scale=(0.5, 2.0))
    yield "nowhere", "some_run", made("skip_transcoder")
    centred = made("topk_auxk", "3.mlp_in", "3.mlp_out")  # takes the bias from the row, which a transcoder does not
    yield "centred_transcoder", "layers.3.mlp", centred
    yield "plain", "layers.4", made("skip_transcoder", "4.resid")  # the other way round


def write(folder: Path) -> None:
    from workbench.dictionary import formats

    for name, place, dictionary in ours():
        formats.write(dictionary, folder / name / place, "sparsify")
        x = 3 * torch.randn(32, dictionary.d, generator=torch.Generator().manual_seed(2)) + 0.5
        found = {"x": x, "code": dictionary.encode(x).to_dense(), "y": dictionary.reconstruct(x)}
        save_file({key: value.contiguous() for key, value in found.items()}, folder / name / "ours.safetensors")


@torch.no_grad()
def load(folder: Path) -> None:
    from sparsify import SparseCoder

    for case in sorted(folder.iterdir()):
        coder = SparseCoder.load_from_disk(next(case.rglob("cfg.json")).parent)
        want = load_file(case / "ours.safetensors")
        values, indices, _ = coder.encode(want["x"])
        code = torch.zeros_like(want["code"]).scatter(1, indices, values)
        y = coder.decode(values, indices)
        if coder.W_skip is not None:
            y = y + want["x"] @ coder.W_skip.mT
        if not coder.cfg.multi_topk:
            assert torch.equal(coder(want["x"]).sae_out, y)
        off = [float((a - b).abs().max() / b.abs().max()) for a, b in ((code, want["code"]), (y, want["y"]))]
        how = [coder.cfg.activation, *(name for name in ("transcode", "skip_connection") if getattr(coder.cfg, name))]
        print(f"{case.name:30} code {off[0]:.1e}  reconstruction {off[1]:.1e}  {' '.join(how)}")  # noqa: T201
        assert max(off) < 1e-5 and torch.equal(code != 0, want["code"] != 0), case.name


if __name__ == "__main__":
    if len(sys.argv) == 2:
        load(Path(sys.argv[1]))
    else:
        sys.path.insert(0, str(HERE.resolve().parents[1] / "peers"))
        from install import python

        with tempfile.TemporaryDirectory() as where:
            write(Path(where))
            subprocess.run([python("sparsify"), HERE, where], check=True)
