"""Checkpoints written by their owner's own code, with what that code computes: `tests/golden/<owner>/<case>`.

`checkpoint/` is what the owner wrote, `expected.safetensors` holds rows `x`, the owner's dense `code` of them and its
reconstruction `y`; `load.json`, if there, arguments of `wb.load`. `bench/formats/golden_<owner>.py` makes them.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import workbench as wb
from workbench.code import Code
from workbench.dictionary.formats._parts import PerRow, normalised
from workbench.dictionary.formats._sae_lens_parts import Foreseen, MatchingPursuit, Temporal

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def cases(owner):
    """Names of an owner's cases, sorted. There are some: an empty list would test nothing."""
    found = sorted(path.parent.name for path in (FOLDER / owner).glob("*/expected.safetensors"))
    assert found, f"no golden checkpoints of {owner}"
    return found


def opened(owner, case, **more):
    """The dictionary of a case."""
    folder = FOLDER / owner / case
    args = json.loads((folder / "load.json").read_text()) if (folder / "load.json").is_file() else {}
    return wb.load(folder / "checkpoint", **(args | more))


def expected(owner, case):
    return load_file(FOLDER / owner / case / "expected.safetensors")


def same(dictionary, owner, case, size=1.0):
    """Encode, decode and reconstruct as the owner does. `size`: of each row, where code values are in row sizes."""
    want = expected(owner, case)
    code = dictionary.encode(want["x"]).to_dense()
    torch.testing.assert_close(code / size, want["code"], **TOLERANCE)
    assert torch.equal(code != 0, want["code"] != 0) and (want["code"] != 0).any()
    torch.testing.assert_close(dictionary.reconstruct(want["x"]), want["y"], **TOLERANCE)
    rest = dictionary.reconstruct(want["x"]) - dictionary.decode(dictionary.encode(want["x"]))  # a skip connection
    torch.testing.assert_close(dictionary.decode(Code.dense(want["code"] * size)) + rest, want["y"], **TOLERANCE)


def kept(owner, case, folder, **close):
    """Kept by us and opened again a case is the same, tensors to the byte. `close`: how far its rows may be off.

    Weights may come back in another order of memory, and sums with them in another order of rounding.
    """
    first = opened(owner, case)
    again = wb.load(wb.save(first, folder / "kept"))
    for name in ("site", "target", "training_summary"):
        assert getattr(again, name) == getattr(first, name), name
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    x = expected(owner, case)["x"]
    torch.testing.assert_close(again.reconstruct(x), first.reconstruct(x), **({"rtol": 0.0, "atol": 0.0} | close))


def apart(owner, case):
    """The largest differences from the owner's code and reconstruction."""
    dictionary, want = opened(owner, case), expected(owner, case)
    encoder = dictionary.encoder.foreseen if isinstance(dictionary.encoder, Temporal) else dictionary.encoder
    how = encoder.how if isinstance(encoder, PerRow | MatchingPursuit | Foreseen) else None
    size = 1.0 if how is None else normalised(want["x"], how, 0.0)[1]  # values of normalised rows are in row sizes
    code, y = dictionary.encode(want["x"]).to_dense() / size, dictionary.reconstruct(want["x"])
    return {"code": float((code - want["code"]).abs().max()), "reconstruction": float((y - want["y"]).abs().max())}
