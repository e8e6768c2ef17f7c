"""What users get wrong: one clear line each, at the door, and nothing is lost."""

import math
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models import tiny_llama, tiny_mlp, tiny_tokenizer

import workbench as wb
from workbench import edit, evaluate, geometry, interpret, lineage
from workbench.batch import Tokens

TEXTS = [" ".join(f"w{(i * 7 + j * 3) % 90}" for j in range(40)) for i in range(12)]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A tiny subject, a store of it, a dictionary trained on that, and another model's dictionary."""
    folder = tmp_path_factory.mktemp("house")
    subject = wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")
    options = {"rows": None, "length": 16, "min_length": 8, "batch": 4, "quiet": True}
    store = wb.collect(subject, TEXTS, ["1.resid"], folder=folder / "store", **options)
    train, test = store.split(by="text", test=0.3)
    sae = trained(train, subject, folder / "sae")
    other = wb.Subject(tiny_llama(seed=1), tiny_tokenizer(), name="other")
    return SimpleNamespace(
        folder=folder, subject=subject, other=other, store=store, train=train, test=test, sae=sae, options=options
    )


def trained(rows, subject, folder=None, **more):
    recipe = wb.recipe("batch_topk", d=32, latents=64, k=4)
    options = {"exclusion": rows.exclusion, "subject_fingerprint": subject.fingerprint, "progress": False}
    return wb.train(recipe, rows.stream(64, site="1.resid", steps=4), site="1.resid", folder=folder, **options | more)


class Fixed:
    """A stream of given rows."""

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def batches(self, start=0):
        return iter([wb.Batch(x, x) for x in self.rows[start:]])

    def describe(self):
        return {"fixed": len(self.rows)}


def fit(rows, **more):
    return wb.train(wb.recipe("topk_auxk", d=32, latents=64, k=4), Fixed(*rows), site=None, progress=False, **more)


def nan_subject(subject):
    broken = wb.Subject(tiny_llama(), tiny_tokenizer(), name="broken")
    with torch.no_grad():
        broken.model.model.layers[1].mlp.down_proj.weight.fill_(math.nan)
    return broken


S = SimpleNamespace
CASES = {
    # sites, layers, widths
    "a stream that is none": (lambda h: wb.Site.of("1.residual"), ValueError, "stream must be one of"),
    "a site without layer": (lambda h: wb.Site.of("resid"), ValueError, "a site reads `12.resid`"),
    "a layer too deep": (lambda h: h.subject.read(TEXTS[:1], ["9.resid"]), ValueError, "layers run from 0 to 2"),
    "a module that is none": (
        lambda h: h.subject.read(TEXTS[:1], ["model.head:out"]), ValueError, "no module .model.head"),
    "no site": (lambda h: h.subject.read(TEXTS[:1], []), ValueError, "at least one"),
    "an edit at a wrong site": (
        lambda h: h.subject.run(TEXTS[:1], {"7.mlp_out": edit.zero()}), ValueError, "layers run from 0"),
    "an edit of the wrong width": (
        lambda h: h.subject.run(TEXTS[:1], {"1.resid": edit.patch(torch.zeros(1, 40, 31))}), ValueError, "patch"),
    "a push of the wrong width": (
        lambda h: h.subject.run(TEXTS[:1], {"1.resid": edit.add(torch.ones(31))}), ValueError, "31 wide"),
    "a mean of the wrong width": (
        lambda h: h.subject.run(TEXTS[:1], {"1.resid": edit.mean(torch.ones(1))}), ValueError, "1 wide"),
    "a site the store lacks": (lambda h: h.store.stream(8, site="2.resid"), ValueError, "1.resid"),
    "rows of the wrong width": (lambda h: fit([torch.randn(64, 31)] * 2), ValueError, "32"),
    "a value at the wrong shape": (
        lambda h: h.subject.finish(TEXTS[:1], "1.resid", torch.zeros(1, 3, 32)), ValueError, "must be"),
    # models
    "an unknown model": (lambda h: wb.Subject("no-such-model"), ValueError, "no model is called 'no-such-model'"),
    "a folder without a model": (lambda h: wb.Subject(str(h.folder)), FileNotFoundError, "config.json"),
    "no model at all": (lambda h: wb.Subject(3), TypeError, "torch module"),
    "an unknown dtype": (lambda h: wb.Subject(tiny_mlp(), dtype="float8"), ValueError, "dtype must be"),
    "a wrong mapping": (lambda h: wb.Subject(tiny_llama(), sites={"mlp": "x:out"}), ValueError, "sites maps"),
    "a mapping to nothing": (
        lambda h: wb.Subject(tiny_llama(), sites={"mlp_out": "nothing.{layer}:out"}), ValueError, "does not run"),
    "another model's dictionary": (
        lambda h: wb.check(h.sae, h.other), ValueError, "was trained on the subject"),
    # text
    "text without a tokenizer": (lambda h: wb.Subject(tiny_llama()).run("w1 w2"), ValueError, "no tokenizer"),
    "no text": (lambda h: h.subject.run([]), ValueError, "at least one"),
    "an empty text": (lambda h: h.subject.run([""]), ValueError, "no token"),
    "ids beyond the vocabulary": (
        lambda h: h.subject.run(torch.tensor([[5, 96]])), ValueError, "run from 0 to 95"),
    "ids of one axis": (lambda h: h.subject.run(torch.tensor([5, 6])), ValueError, r"\(text, pos\)"),
    "an empty row": (
        lambda h: h.subject.run(Tokens(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool))),
        ValueError, "at least one real token"),
    "no new token": (lambda h: h.subject.generate("w1", new=0), ValueError, "1 or more"),
    "a negative temperature": (lambda h: h.subject.generate("w1", temperature=-1.0), ValueError, "0 or more"),
    # corpora and stores
    "an unknown corpus": (lambda h: wb.corpus("no-such-corpus"), (ValueError, FileNotFoundError), "no-such-corpus"),
    "an empty corpus": (
        lambda h: wb.collect(h.subject, [], ["1.resid"], folder=h.folder / "e", **h.options), ValueError, "."),
    "texts shorter than a row": (
        lambda h: wb.collect(h.subject, ["w1 w2", "w3"], ["1.resid"], folder=h.folder / "f", **h.options),
        ValueError, "."),
    "more rows than the corpus has": (
        lambda h: wb.collect(h.subject, TEXTS, ["1.resid"], folder=h.folder / "g", **h.options | {"rows": 10**6}),
        ValueError, "rows"),
    "NaN activations": (
        lambda h: wb.collect(nan_subject(h), TEXTS, ["1.resid"], folder=h.folder / "n", **h.options),
        FloatingPointError, "1.resid is nan at position"),
    "another harvest in the folder": (
        lambda h: wb.collect(h.subject, TEXTS, ["2.resid"], folder=h.folder / "store", **h.options),
        FileExistsError, "."),
    "a folder that is no store": (lambda h: wb.Store.open(h.folder / "nothing"), FileNotFoundError, "."),
    "a split by label": (lambda h: h.store.split(by="row"), ValueError, "by='text'"),
    "a test share of one": (lambda h: h.store.split(test=1.0), ValueError, "between 0 and 1"),
    "a batch beyond the store": (lambda h: h.store.stream(10**7, site="1.resid"), ValueError, "smaller"),
    # recipes and training
    "an unknown variant": (lambda h: wb.recipe("no_such", d=4), ValueError, "choose from"),
    "a missing argument": (lambda h: wb.recipe("batch_topk", d=4), TypeError, "latents"),
    "an argument too many": (lambda h: wb.recipe("batch_topk", d=4, latents=8, depth=2), TypeError, "depth"),
    "k beyond the latents": (lambda h: wb.recipe("topk_auxk", d=4, latents=8, k=9), ValueError, "8"),
    "no latents": (lambda h: wb.recipe("batch_topk", d=4, latents=0), ValueError, "."),
    "NaN rows": (lambda h: fit([torch.full((64, 32), math.nan)] * 3), ValueError, "NaN or infinite"),
    "widths that do not grow": (
        lambda h: wb.recipe("matryoshka_batch_topk", d=4, latents=8, k=2, shares=(0.5, 0.25)), ValueError, "grow"),
    "rows that are mostly zero": (
        lambda h: fit([torch.cat([torch.zeros(48, 32), torch.randn(16, 32)])]), ValueError, "median norm of 64"),
    "constant rows": (lambda h: fit([torch.ones(64, 32)] * 3), ValueError, "rows are all the same"),
    "one row": (lambda h: fit([torch.randn(1, 32)]), ValueError, "first 1 rows are all the same"),
    "another run in the folder": (
        lambda h: trained(h.train, h.subject, h.folder / "sae", seed=5), ValueError, "."),
    "a folder without a dictionary": (lambda h: wb.load(h.folder), ValueError, "is no dictionary that we know"),
    # evaluation, reading, maps
    "an unknown eval": (
        lambda h: evaluate.run({"a": h.sae}, ["no_such"], rows=h.test), ValueError, "choose from"),
    "a codec without a site": (
        lambda h: wb.Case(wb.recipe("topk_auxk", d=32, latents=64).dictionary, None, h.test), ValueError, "site"),
    "tokens without a subject": (
        lambda h: wb.Case(h.sae, None, h.test, h.test.tokens), ValueError, "no subject"),
    "a latent that is none": (lambda h: edit.clamp(h.sae, 64, 1.0), ValueError, r"0\.\.63"),
    "effects of no latent": (lambda h: interpret.effects(h.sae, h.subject, [99]), ValueError, r"0\.\.63"),
    "a map of three points": (lambda h: geometry.plane(torch.randn(3, 4)), ValueError, "more than"),
    "a map of zeros": (lambda h: geometry.plane(torch.zeros(100, 4), method="pca"), ValueError, "."),
    "an unknown layout": (lambda h: geometry.plane(torch.randn(100, 4), method="tsne"), ValueError, "one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_clear_line(name, house):
    act, kind, says = CASES[name]
    before = kept(house)
    with pytest.raises(kind, match=says) as caught:
        act(house)
    line = str(caught.value)
    assert line.strip(), "a message"
    if "\n" in line:
        assert "runs:\n" in line or "runs no module" in line, f"more than one line that is no module tree: {line}"
    assert len(line.splitlines()[0]) < 400
    assert kept(house) == before, "nothing that was there is lost"


def kept(house) -> dict[str, str]:
    """Hashes of the finished artefacts."""
    files = [p for folder in ("store", "sae") for p in sorted((house.folder / folder).rglob("*")) if p.is_file()]
    return {str(p): lineage.file_hash(p) for p in files if not p.name.endswith(".lock")}


def test_there_are_forty_mistakes():
    assert len(CASES) >= 40


def test_every_flipped_byte_of_a_dictionary_is_refused(house, tmp_path):
    wb.save(house.sae, tmp_path)
    for name in ("spec.json", "weights.safetensors"):
        good = (tmp_path / name).read_bytes()
        for place in range(0, len(good), max(1, len(good) // 40)):
            (tmp_path / name).write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            with pytest.raises(ValueError, match="damaged"):
                wb.load(tmp_path)
        (tmp_path / name).write_bytes(good)
    assert torch.equal(wb.load(tmp_path).atoms(), house.sae.atoms())


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    lineage.write(tmp_path / "a.bin", b"old")
    code = textwrap.dedent(f"""
        import resource, signal
        from workbench import lineage
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            lineage.write({str(tmp_path / "a.bin")!r}, bytes(100_000))
        except OSError as error:
            print(type(error).__name__, error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]  # noqa: PTH208 (hidden files count too)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096, "only the child was limited"


def test_a_missing_package_is_named():
    code = textwrap.dedent("""
        import sys
        sys.modules["umap"] = None
        import torch
        from workbench import geometry
        try:
            geometry.plane(torch.randn(100, 8), folder=sys.argv[1])
        except ImportError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code, "/nonexistent"], capture_output=True, text=True, check=True)
    assert "umap" in done.stdout


def test_the_command_line_shows_no_traceback(tmp_path):
    for arguments in (["report", "none.ipynb"], ["fetch", "none"], ["report"], ["report", str(Path(__file__))]):
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr, done.stderr
