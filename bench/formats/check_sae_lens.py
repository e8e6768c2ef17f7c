"""What we write, SAELens opens (`SAE.load_from_disk`) and computes the same: our variants, and what we read of its.

    python bench/formats/check_sae_lens.py

Writes folders with our code, then runs itself in SAELens's environment (`python bench/peers/install.py sae_lens`).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-5  # of a row's largest entry
GOLDEN = Path(__file__).parent.parent.parent / "tests" / "golden" / "sae_lens"


def ours(folder: Path) -> None:
    """Folders `NAME/written`, and rows with our code and reconstruction of them."""
    import workbench as wb
    from workbench import catalogue
    from workbench.dictionary import formats
    from workbench.site import Site

    def kept(name: str, dictionary: Any, x: torch.Tensor, size: Any = 1.0) -> None:
        try:
            formats.write(dictionary, folder / name / "written", "sae_lens")
        except ValueError as error:
            print(f"{name:42s} not written: {error}")
            return
        code = (dictionary.encode(x).to_dense() / size).contiguous()
        save_file(
            {"x": x, "code": code, "y": dictionary.reconstruct(x).contiguous()}, folder / name / "ours.safetensors"
        )

    for name in catalogue.names("variants"):
        module = catalogue.module("variants", name)
        dictionary = wb.recipe(name, **module.SUITE).dictionary
        torch.manual_seed(0)
        for part, value in dictionary.named_parameters():
            if name != "matching_pursuit" or part != "decoder.weight":  # whose atoms have norm 1
                value.data.copy_(0.3 * torch.randn(value.shape))
        if isinstance(threshold := getattr(dictionary.sparsifier, "threshold", None), torch.Tensor):
            threshold.data.copy_(torch.rand(threshold.shape) * 1.5)
        if name != "matching_pursuit":
            dictionary.set_scale_(0.37, 0.37)
        dictionary.site = dictionary.target = Site(2, "resid")
        if module.KIND == "pair":
            dictionary.target = Site(3, "mlp_out")
        kept(f"ours_{name}", dictionary.freeze(), 3 * torch.randn(64, *dictionary.shape))
    for case in sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors")):
        path = GOLDEN / case / "load.json"
        dictionary = wb.load(GOLDEN / case / "checkpoint", **(json.loads(path.read_text()) if path.is_file() else {}))
        config, x = dictionary.training_summary["config"], load_file(GOLDEN / case / "expected.safetensors")["x"]
        how, size = config.get("normalize_activations"), 1.0
        if how == "layer_norm" and "transcoder" not in config.get("architecture", ""):
            size = x.std(-1, keepdim=True)
        elif how == "constant_norm_rescale" and "transcoder" not in config["architecture"]:
            size = x.norm(dim=-1, keepdim=True) / x.shape[1] ** 0.5
        kept(f"read_{case}", dictionary, x, size)


@torch.no_grad()
def theirs(folder: Path) -> int:
    """Opens each and compares; the number that differs."""
    from sae_lens import SAE

    wrong = 0
    for path in sorted(folder.glob("*/ours.safetensors")):
        want, sae = load_file(path), SAE.load_from_disk(path.parent / "written")
        x, temporal = want["x"], sae.cfg.architecture() == "temporal"
        rows = x[None] if temporal else x.unflatten(-1, (3, -1)) if sae.cfg.reshape_activations == "hook_z" else x
        code, y = sae.encode(rows), sae(rows)
        code, y = (code[0], y[0]) if temporal else (code, y.flatten(1))
        off = [
            float(((a - b).abs().amax(-1) / b.abs().amax(-1).clamp_min(1)).max())
            for a, b in ((code, want["code"]), (y, want["y"]))
        ]
        same = max(off) < TOLERANCE and torch.equal(code != 0, want["code"] != 0) and bool((code != 0).any())
        wrong += not same
        where = sae.cfg.metadata.hook_name
        print(f"{path.parent.name:42s} {sae.cfg.architecture():26s} {off[0]:.1e} {off[1]:.1e} {same!s:5s} {where}")
    return wrong


def main() -> None:
    if len(sys.argv) == 2:
        sys.exit(theirs(Path(sys.argv[1])))
    sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
    import install

    with tempfile.TemporaryDirectory() as folder:
        ours(Path(folder))
        sys.exit(subprocess.run([install.python("sae_lens"), "-W", "ignore", __file__, folder]).returncode)


if __name__ == "__main__":
    main()
