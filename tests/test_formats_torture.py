"""3,000 folders that are damaged or mean harm: each is refused in one line, or the change did no harm.

Folders are those that owners' code wrote (tests/golden) and those of formats without one; each is changed in one way,
drawn by a seed. Nothing runs, nothing is written, nothing outside is opened, and no lie about a size takes memory.
"""

import io
import json
import os
import pickle
import random
import resource
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import golden
import numpy as np
import pytest
import test_formats_crosscoders
import test_formats_files
import test_formats_openai
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import workbench as wb

COUNT, CHUNKS = 3_000, 30
OWNERS = {"circuit_tracer", "dictionary_learning", "llamascopium", "overcomplete", "sae_lens", "sparsify"}
TENSORS = (".safetensors", ".npz", ".pt", ".pth", ".bin")
TEXTS = (".json", ".yaml", ".yml")
CANARY = "ran"
OPENED: list[str] = []  # while a folder is looked at
WATCHED = [False]


def _audit(event, args):
    if WATCHED[0] and event in ("open", "os.system", "subprocess.Popen", "os.exec", "socket.connect", "os.rename"):
        OPENED.append(str(args[0]) if event == "open" else f"{event} {args}")


sys.addaudithook(_audit)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# -- what is changed


def tensors_of(path):
    """The tensors of a file, where they are in it, and a way to write them again."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            held, meta = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        return held, lambda new: save_file({k: v.contiguous().clone() for k, v in new.items()}, path, meta)
    if path.suffix == ".npz":
        with np.load(path) as file:
            held = {name: torch.from_numpy(file[name]) for name in file.files}
        return held, lambda new: np.savez(path, **{k: v.numpy() for k, v in new.items()})
    value = torch.load(path, weights_only=True)
    inner = value
    while not any(isinstance(v, torch.Tensor) for v in inner.values()):
        inner = next(v for v in inner.values() if isinstance(v, dict))
    held = {k: v for k, v in inner.items() if isinstance(v, torch.Tensor)}

    def write(new):
        for name in held:
            del inner[name]
        inner.update(new)
        torch.save(value, path)

    return held, write


def pick(rng, folder, endings):
    """A file of the folder with one of these endings, or none."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(endings))
    return rng.choice(found) if found else None


def truncated(rng, folder):
    path = pick(rng, folder, TENSORS)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def emptied(rng, folder):
    pick(rng, folder, "").write_bytes(b"")


def replaced(rng, folder):
    pick(rng, folder, TENSORS).write_bytes(rng.randbytes(rng.randrange(1, 400)))


def gone(rng, folder):
    pick(rng, folder, "").unlink()


def a_folder_instead(rng, folder):
    path = pick(rng, folder, "")
    path.unlink()
    path.mkdir()


def a_link_out(rng, folder):
    path = pick(rng, folder, "")
    path.rename(folder.parent / "outside" / path.name)
    path.symlink_to(folder.parent / "outside" / path.name)


def code(rng, folder):
    path = pick(rng, folder, TENSORS)
    evil, buffer = Evil(folder.parent / CANARY), io.BytesIO()
    how = rng.randrange(4)
    if how == 0:
        path.write_bytes(pickle.dumps({"W_enc": evil}))
    elif how == 1:
        torch.save({"encoder.weight": torch.ones(2, 2), "x": evil}, path)
    elif how == 2:
        torch.save({"x": evil}, path, _use_new_zipfile_serialization=False)
    else:
        np.savez(buffer, W_enc=np.array([evil], dtype=object))
        path.write_bytes(buffer.getvalue())


def tensor(change):
    """A change of one tensor: given generator and tensors, gives them again. Tells the file."""

    def mutate(rng, folder):
        path = pick(rng, folder, TENSORS)
        held, write = tensors_of(path)
        write(change(rng, dict(held)))
        return path

    return mutate


def any_name(rng, held, wide=0):
    return rng.choice([name for name, value in held.items() if value.ndim >= wide] or list(held))


def spoiled(rng, held):
    name = any_name(rng, held)
    value = held[name].clone()
    if not value.is_floating_point():
        return held | {name: torch.full(value.shape, torch.nan)}
    flat = value.reshape(-1)
    flat[rng.randrange(len(flat))] = rng.choice([float("nan"), float("inf"), float("-inf")])
    return held | {name: value}


def spoiled_wholly(rng, held):
    name = any_name(rng, held)
    return held | {name: torch.full(held[name].shape, rng.choice([float("nan"), float("inf")]))}


def missing(rng, held):
    held.pop(any_name(rng, held))
    return held or {"x": torch.ones(2)}


def renamed(rng, held):
    name = any_name(rng, held)
    other = rng.choice([name + "_", "../" + name, name.upper() + "1", "x" * 3000, "a\nb", "module." + name])
    return held | {other: held.pop(name)}


def added(rng, held):
    return held | {rng.choice(["W_gate", "r_mag_", "../../x", "encoder.weight.1", "zz"]): torch.ones(3, 5)}


def turned(rng, held):
    """A matrix that is not square, else nobody could see it."""
    uneven = [name for name, value in held.items() if value.ndim > 1 and value.shape[0] != value.shape[-1]]
    name = rng.choice(uneven or list(held))
    value = held[name]
    return held | {name: value.transpose(0, -1).contiguous() if uneven else value.reshape(-1).repeat(2)}


def longer(rng, held):
    name = any_name(rng, held)
    value = held[name]
    return held | {name: torch.cat([value.reshape(-1), value.new_ones(rng.randrange(1, 4))])}


def no_rows(rng, held):
    name = any_name(rng, held, wide=1)
    return held | {name: held[name][:0] if held[name].ndim else torch.ones(0)}


def whole_numbers(rng, held):
    name = any_name(rng, held, wide=1)
    value = held[name]
    return held | {name: value.long() if value.is_floating_point() else value.bool()}


def complex_numbers(rng, held):
    """NumPy and pickles have them, safetensors too."""
    name = any_name(rng, held)
    return held | {name: held[name].to(torch.complex64)}


def header(rng, folder):
    """What the header says of one tensor is another size or place."""
    path = pick(rng, folder, TENSORS)
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + size])
        name = rng.choice([k for k in said if k != "__metadata__"])
        how = rng.randrange(4)
        if how == 0:
            said[name]["shape"] = [rng.choice([10**6, 2**40, 2**62]), rng.choice([3, 10**6])]
        elif how == 1:
            said[name]["data_offsets"][1] += rng.choice([4, 10**6, 2**40])
        elif how == 2:
            said[name]["dtype"] = rng.choice(["F8", "F64", "I64", "U8", "X"])
        text = json.dumps(said).encode()
        claimed = len(text) if how < 3 else rng.choice([0, 7, 2**20, 2**40, 2**63])
        path.write_bytes(claimed.to_bytes(8, "little") + text + data[8 + size :])
    elif zipfile.is_zipfile(path):
        at = data.rindex(b"PK\x01\x02")
        sizes = rng.choice([(2**31, 2**31), (None, 2**31), (0, 2**31), (5, 5)])
        new = bytearray(data)
        for place, value in zip((20, 24), sizes, strict=True):
            if value is not None:
                new[at + place : at + place + 4] = value.to_bytes(4, "little")
        path.write_bytes(bytes(new))
    else:
        path.write_bytes(data[::-1])


def flipped(rng, folder):
    path = pick(rng, folder, "")
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 9)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def cut_text(rng, folder):
    if path := pick(rng, folder, TEXTS):
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        truncated(rng, folder)


def config(change):
    """A change of one value in a JSON or YAML configuration; of a tensor file where there is none."""

    def mutate(rng, folder):
        path = pick(rng, folder, TEXTS)
        if path is None:
            truncated(rng, folder)
            return
        said = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        inside = [said]
        while rng.random() < 0.4 and (deeper := [v for v in inside[-1].values() if isinstance(v, dict) and v]):
            inside.append(rng.choice(deeper))
        change(rng, inside[-1])
        path.write_text(json.dumps(said) if path.suffix == ".json" else yaml.safe_dump(said))

    return mutate


def wrong_type(rng, said):
    name = rng.choice(sorted(said))
    bad = [3.7, "three", [], {}, [1, "a"], {"k": 3}, -5, True, 10**30, "NaN", [[]]]
    said[name] = rng.choice([value for value in bad if type(value) is not type(said[name])])


def bad_k(rng, said):
    names = [name for name in said if name in ("k", "top_k", "dict_size", "activation_dim", "d_in", "d_sae", "d_model")]
    said[rng.choice(names or sorted(said))] = rng.choice([-3, 0, 10**6, 2**60, 2.5, "4", True, [4]])


def no_key(rng, said):
    said.pop(rng.choice(sorted(said)))


def nothing_for_it(rng, said):
    said[rng.choice(sorted(said))] = None


def way_out(rng, said):
    texts = [name for name, value in said.items() if isinstance(value, str)]
    out = ["../outside/x.safetensors", "/etc/passwd", "..", "a\0b", "x" * 9000, "hf://../../etc", "\n\n", "\ud800"]
    name = rng.choice(texts or sorted(said))
    said[name] = rng.choice(out)


def not_json(rng, folder):
    path = pick(rng, folder, TEXTS)
    if path is None:
        emptied(rng, folder)
        return
    path.write_text(
        rng.choice(
            ["[]", "null", "[" * 50_000, '{"a":1,"a":2}', "{" * 9, "!!python/object/apply:os.system [true]", "\t"]
        )
    )


def a_note(rng, folder):
    (folder / rng.choice(["README.md", ".gitattributes", "LICENSE", "notes.txt"])).write_text("nothing of it")


def touched(rng, folder):
    path = pick(rng, folder, "")
    os.utime(path, (1, 1))


STRICT = {  # it is refused, or nothing that counts was changed: then it computes what it did
    **{
        f.__name__: f
        for f in (truncated, emptied, replaced, gone, a_folder_instead, a_link_out, code, header, not_json)
    },
    **{
        f.__name__: tensor(f)
        for f in (spoiled, spoiled_wholly, missing, renamed, added, turned, longer, no_rows, complex_numbers)
    },
    **{f.__name__: config(f) for f in (wrong_type, bad_k, way_out)},
}
HARMLESS = {f.__name__: f for f in (a_note, touched)}  # it computes what it did
OPEN = {  # nobody could know: it is refused, or computes numbers of the right shape
    "flipped": flipped,  # a weight's last bits
    "cut_text": cut_text,  # YAML may end anywhere
    "whole_numbers": tensor(whole_numbers),  # a flag, or a size that is kept as a tensor
    "no_key": config(no_key),  # the owner's default counts
    "nothing_for_it": config(nothing_for_it),
}
ALL = [*STRICT, *STRICT, *STRICT, *OPEN, *OPEN, *HARMLESS]  # by weight


# -- the folders


def own(root):
    """Folders of formats whose owners cannot be installed, with what `load` needs to know."""
    x = test_formats_openai
    yield "openai_relu", x.write(root / "openai_relu")[0].parent, x.rows(6)
    yield "openai_topk", x.write(root / "openai_topk", **x.topk(5))[0].parent, x.rows(n=6)
    x = test_formats_crosscoders
    x.write(root / "crosscoder", norm="SAE", threshold=1.0, normalised=True)
    yield "crosscoder", root / "crosscoder", x.rows(6)
    x.replication(root / "replication")
    yield "replication", root / "replication", x.rows(6, layers=2)
    x = test_formats_files
    (root / "goodfire").mkdir()
    torch.save(x.two_layers("encoder_linear", "decoder_linear"), root / "goodfire" / x.LLAMA)
    yield "goodfire", root / "goodfire", x.rows(6)
    x.qwen(root / x.QWEN)
    yield "qwen", root / x.QWEN, x.rows(6)
    x.bussmann(root / "bussmann", "jumprelu", input_unit_norm=True)
    yield "bussmann", root / "bussmann", x.rows(6)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Name, folder, arguments, rows and what is computed of them."""
    root = tmp_path_factory.mktemp("t")
    found = [(name, folder, {}, rows) for name, folder, rows in own(root)]
    assert {p.name for p in golden.FOLDER.iterdir() if any(p.glob("*/expected.safetensors"))} >= OWNERS
    for path in sorted(golden.FOLDER.glob("*/*/expected.safetensors")):
        case = path.parent
        args = json.loads((case / "load.json").read_text()) if (case / "load.json").is_file() else {}
        found.append((f"{case.parent.name}_{case.name}", case / "checkpoint", args, load_x(path)[:6]))
    return [(name, folder, args, x, wb.load(folder, **args).reconstruct(x)) for name, folder, args, x in found]


def load_x(path):
    with safe_open(path, "pt") as file:
        return file.get_tensor("x")


def listing(root):
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*"))


def look(folder, args, x):
    """What comes of a folder: its numbers, or the words of the refusal. Anything else that is raised, passes."""
    OPENED.clear()
    WATCHED[0] = True
    try:
        made = wb.load(folder, **args)
        try:
            y = made.reconstruct(x) if made.d == x[0].numel() else None
        except ValueError as error:  # atoms that stayed in their file are looked at when a code uses them
            return f"{folder}: {error}"
        weights = [v for v in made.state_dict().values() if v.is_floating_point()]
        return made, y, max((float(v.abs().max()) for v in weights if v.numel()), default=0.0)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    finally:
        WATCHED[0] = False


def strangers(root):
    """Files that were opened elsewhere, without those of the libraries."""
    known = (str(root), sys.prefix, sys.base_prefix, str(Path(wb.__file__).parent), "/proc/", "/dev/null", "/sys/")
    return [name for name in OPENED if not name.startswith(known) and not name.isdecimal()]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_each_is_refused_in_a_line_or_did_no_harm(folders, tmp_path, chunk):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(chunk, COUNT, CHUNKS):
        rng = random.Random(number)
        name, folder, args, x, y0 = folders[number % len(folders)]
        kind = rng.choice(ALL)
        where = tmp_path / str(number)
        at = where / folder.name
        (where / "outside").mkdir(parents=True)
        shutil.copytree(folder, at)
        with warnings.catch_warnings(action="ignore"):
            changed = (STRICT | OPEN | HARMLESS)[kind](rng, at)
        before = listing(where)
        told = f"{number}: {kind} of {name}"
        try:
            result = look(at, args, x)
        except Exception as error:
            raise AssertionError(f"{told} raised {type(error).__name__}: {error}") from error
        assert listing(where) == before, f"{told} wrote"
        assert not (where / CANARY).exists(), f"{told} ran code"
        assert not strangers(where), f"{told} opened {strangers(where)}"
        if isinstance(result, str):
            assert kind not in HARMLESS, f"{told}: {result}"
            assert "\n" not in result and len(result) <= 400 and str(at) in result, f"{told}: {result!r}"
        else:
            made, y, largest = result
            if kind in OPEN:
                assert y is None or (
                    y.shape == (len(x), *made.decoder.shape) and (y.isfinite().all() or largest > 1e9)
                ), told
            else:
                if kind == "added":  # only what was not opened may hold one more
                    opened = made.training_summary["files"]
                    assert not any(changed.as_posix().endswith(f"/{name}") for name in opened), f"{told} was read"
                if y is None and kind == "turned":  # tied atoms of another width: rows of this one are refused
                    continue
                assert y is not None and y.shape == y0.shape, f"{told} was read"
                torch.testing.assert_close(y, y0, rtol=1e-5, atol=1e-5, msg=f"{told} was read, and computes otherwise")
        shutil.rmtree(where)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 300_000, f"{grown:,} KiB more memory were held at once"


def test_the_damage_is_of_every_kind_and_to_every_folder(folders):
    kinds = {random.Random(number).choice(ALL) for number in range(COUNT)}
    assert kinds == STRICT.keys() | OPEN.keys() | HARMLESS.keys() and len(folders) <= COUNT // 10
