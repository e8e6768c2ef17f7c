"""The workshop's folder: the right wheels for other systems, whole or not taken for whole, installed from it alone."""

import ast
import hashlib
import importlib.util
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench import cli, lineage
from workbench.subject import offline
from workbench.workshop import install, laptop, pack, wheels
from workbench.workshop.wheels import Shelf, Target, least_python, pins

ROOT = Path(__file__).parent.parent
TARGETS = [Target(name, "3.12") for name in ("linux", "macos", "windows")]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder, name, version="1.0", *, needs=(), tag="py3-none-any", python="", files=None):
    """A planted wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += "".join(f"Requires-Dist: {need}\n" for need in needs)
    about += f"Requires-Python: {python}\n" if python else ""
    inside = {f"{stem}.py": "", **(files or {}), f"{info}/METADATA": about}
    inside[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: planted\nRoot-Is-Purelib: true\nTag: {tag}\n"
    inside[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*inside, f"{info}/RECORD"))
    path = folder / f"{stem}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in inside.items():
            archive.writestr(zipfile.ZipInfo(member), text)  # without the time
    return path


def own(folder, *needs, **more):
    return wheel(folder, "interp-workbench", "0.1.0", needs=needs, **more)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that stands for the package index, and the names that were asked of it."""
    place, asked = tmp_path / "index", []
    place.mkdir()

    def fetch(self, wanted, into, target, index):
        asked.append((target.platform, index, tuple(wanted)))
        missing = []
        for one in wanted:
            name, _, version = one.partition("==")
            fits = [
                path
                for path in place.glob(f"{name.replace('-', '_')}-{version}*.whl")
                if wheels.parse_wheel_filename(path.name)[3] & target.fits()
            ]
            for path in fits[:1]:
                (into / path.name).write_bytes(path.read_bytes())
            missing += [] if fits else [one]
        return f"ERROR: No matching distribution found for {missing[0]}" if missing else ""

    monkeypatch.setattr(Shelf, "_pip", fetch)
    monkeypatch.setattr(wheels, "_has_source", lambda name, version, index: False)
    return SimpleNamespace(folder=place, asked=asked)


def shelf(tmp_path, lock, torch_index=None):
    (tmp_path / "pack" / "wheels").mkdir(parents=True, exist_ok=True)
    return Shelf(tmp_path / "pack", lock, torch_index, say=lambda line: None)


def names(paths):
    return {wheels.parse_wheel_filename(path.name)[0] for path in paths} - {"interp-workbench"}


# which wheels


def test_markers_are_those_of_the_target_and_not_of_this_machine(tmp_path, index):
    needs = [
        'alpha; sys_platform == "win32"',
        'beta; platform_system == "Darwin"',
        'gamma; os_name != "nt"',
        'delta; python_version < "3.12"',
        'early; python_full_version < "3.12.4"',
        'chip; platform_machine == "arm64"',
        'lab; extra == "lab"',
        'tests; extra == "test"',
    ]
    lock = dict.fromkeys(["alpha", "beta", "gamma", "delta", "early", "chip", "lab", "tests"], "1.0")
    for name in lock:
        wheel(index.folder, name)
    made = shelf(tmp_path, lock)
    mine = own(tmp_path, *needs)
    found = {target.platform: names(made.whole(mine, ["lab"], target)) for target in TARGETS}
    assert found == {
        "linux": {"gamma", "early", "lab"},
        "macos": {"beta", "gamma", "chip", "early", "lab"},
        "windows": {"alpha", "early", "lab"},
    }
    assert "delta" in names(made.whole(mine, ["lab"], Target("linux", "3.11")))


def test_needs_are_followed_with_their_extras_and_fetched_once(tmp_path, index):
    wheel(index.folder, "a", needs=["b[more]>=1"])
    wheel(index.folder, "b", needs=['c; extra == "more"', 'd; extra == "other"', "a"])
    wheel(index.folder, "c", tag="cp312-cp312-win_amd64")
    wheel(index.folder, "c", tag="cp312-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64")
    wheel(index.folder, "c", tag="cp311-abi3-macosx_11_0_arm64")
    made, mine = shelf(tmp_path, dict.fromkeys("abcd", "1.0")), own(tmp_path, "a")
    for target in TARGETS:
        paths = made.whole(mine, ["lab"], target)
        assert names(paths) == {"a", "b", "c"}
        assert next(p for p in paths if p.name.startswith("c-")) == made.find("c", target)
    assert [wanted for _, _, wanted in index.asked].count(("a==1.0",)) == 1
    before = len(index.asked)
    made.whole(mine, ["lab"], TARGETS[0])
    assert len(index.asked) == before


@pytest.mark.parametrize(
    ("needs", "lock", "said"),
    [
        (["x"], {}, "interp-workbench for Linux, x86_64, Python 3.12 wants x, which has no locked version"),
        (["x>=2"], {"x": "1.0"}, "wants x>=2, locked is 1.0"),
        (["nvidia-cublas-cu12"], {"nvidia-cublas-cu12": "1.0"}, "wants nvidia-cublas-cu12, CUDA packages of gigabytes"),
        (["triton"], {"triton": "1.0"}, "wants triton, CUDA packages"),
        (["x"], {"x": "1.0"}, "pip's index has no wheel for Linux, x86_64, Python 3.12 of: x 1.0 (nothing is there)"),
    ],
)
def test_what_cannot_be_packed_is_one_line(tmp_path, index, needs, lock, said):
    with pytest.raises(ValueError) as caught:
        shelf(tmp_path, lock).whole(own(tmp_path, *needs), ["lab"], TARGETS[0])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_torch_with_cuda_is_refused_and_not_kept_and_the_cpu_build_comes_from_its_own_index(tmp_path, index):
    lock = {"torch": "2.0", "nvidia-cuda-runtime": "13.0", "x": "1.0"}
    cuda = 'nvidia-cuda-runtime; platform_system == "Linux"'
    wheel(index.folder, "torch", "2.0", needs=[cuda], tag="cp312-cp312-manylinux_2_28_x86_64")
    wheel(index.folder, "torch", "2.0", needs=[cuda], tag="cp312-cp312-macosx_11_0_arm64")
    wheel(index.folder, "x")
    made, mine = shelf(tmp_path, lock, "cpu-index"), own(tmp_path, "torch", "x")
    with pytest.raises(ValueError, match=r"torch for Linux, x86_64.*wants nvidia-cuda-runtime.*--torch-index https://"):
        made.whole(mine, [], TARGETS[0])
    assert not list(made.wheels.glob("torch*"))
    assert names(made.whole(mine, [], TARGETS[1])) == {"torch", "x"}
    wheel(index.folder, "torch", "2.0+cpu", tag="cp312-cp312-linux_x86_64")
    next(index.folder.glob("torch-2.0-*manylinux*")).unlink()
    assert names(made.whole(mine, [], TARGETS[0])) == {"torch", "x"}
    assert ("linux", "cpu-index", ("torch==2.0",)) in index.asked
    assert {index for platform, index, _ in index.asked if platform == "macos"} == {None}


def test_a_package_that_is_source_only_is_named_by_pip_itself(tmp_path, monkeypatch):
    links = tmp_path / "links"
    wheel(links, "good")
    (tmp_path / "bad-1.0").mkdir()
    (tmp_path / "bad-1.0" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    with tarfile.open(links / "bad-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bad-1.0", "bad-1.0")
    for key, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(key, value)
    made = shelf(tmp_path, {"good": "1.0", "bad": "1.0"})
    with pytest.raises(ValueError, match=r"no wheel for Windows, 64 bit, Python 3.12 of: bad 1.0 \(only its source"):
        made.whole(own(tmp_path, "good", "bad"), [], TARGETS[2])
    assert [path.name for path in made.fetched] == ["good-1.0-py3-none-any.whl"]  # it need not come twice


def test_an_index_out_of_reach_is_no_missing_wheel(tmp_path, monkeypatch):
    why = "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'"
    monkeypatch.setattr(Shelf, "_pip", lambda self, *_: why)
    with pytest.raises(ConnectionError, match="pip's index could not be reached for x"):
        shelf(tmp_path, {"x": "1.0"}).whole(own(tmp_path, "x"), [], TARGETS[0])


def test_the_first_patch_release_that_all_wheels_allow(tmp_path):
    some = [wheel(tmp_path, "a", python=">=3.9"), wheel(tmp_path, "b", python=">=3.11.5")]
    assert (least_python(some, "3.11"), least_python(some, "3.12")) == ("3.11.5", "3.12.0")
    with pytest.raises(ValueError, match=r"c-1.0.*wants Python <3.12, not 3.12"):
        least_python([*some, wheel(tmp_path, "c", python="<3.12")], "3.12")


def test_the_lock_serves_every_system(tmp_path):
    lock = pins((ROOT / "constraints.txt").read_text())
    assert lock["torch"] == "2.13.0" and lock["huggingface-hub"] and lock["colorama"] and lock["pywinpty"]
    assert all(name == wheels.canonicalize_name(name) for name in lock)
    with pytest.raises(ValueError, match="must pin every package"):
        pins("a==1\nb>=2\n")


# whole or not


@pytest.fixture
def checkout(tmp_path, index, monkeypatch):
    """A planted project, model and lesson, and `make(...)`, which packs it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("WORKBENCH_CACHE", str(cache))
    model = cache / "models" / "smollm2-135m"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": lineage.file_hash(model / "model.safetensors")}
    lineage.write_json(model / "manifest.json", {"format": offline.FORMAT, "files": files})
    source = tmp_path / "project"
    for name in ("workbench", "widgets", "masters"):
        (source / name).mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        (source / name).write_text("")
    (source / "constraints.txt").write_text("# pins\ndep==1.0\n")
    cells = [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": "1"}]
    notebook = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    for number in (1, 2):
        (source / "masters" / f"{number}_name.ipynb").write_text(notebook)
    wheel(index.folder, "dep")
    main = "import sys\nprint('looked', *sys.argv[1:])\n"

    def build_wheel(source, into):
        return own(into, "dep", files={"workbench/__init__.py": "", "workbench/cli.py": main})

    def build(masters, out):
        for master in sorted(Path(masters).glob("*.ipynb")):
            lineage.write(out / master.name, master.read_bytes())
            for kind in ("handout", "instructor"):
                lineage.write(out / kind / f"{master.stem}.html", b"page")
            made = out / "catch_up" / f"{master.stem[0]}.1" / "weights"
            if not made.is_file():
                lineage.write(made, b"trained")
        lineage.write_json(out / "built.json", {"files": {}})

    monkeypatch.setattr(pack, "build_wheel", build_wheel)
    monkeypatch.setattr(pack, "build", build)
    monkeypatch.setattr(pack, "graph", lambda: b"{}")
    said = []

    def make(**more):
        options = {"platforms": ["linux", "windows"], "pythons": [HERE], "torch_index": None, "say": said.append}
        places = {"masters": source / "masters", "source": source}
        return pack.pack(tmp_path / "out", **options | places | more)

    return SimpleNamespace(make=make, out=tmp_path / "out", source=source, said=said, index=index)


def test_a_pack_has_what_it_says_and_says_what_it_has(checkout):
    made = checkout.make()
    assert made["lessons"] == ["1_name", "2_name"] and made["platforms"] == ["linux", "windows"]
    assert made["python"] == {HERE: f"{HERE}.0"} and made["locked"] == {"dep": "1.0"}
    there = {
        path.relative_to(checkout.out).as_posix(): path
        for path in checkout.out.rglob("*")
        if path.is_file() and path.name[0] != "."
    }
    assert set(there) == {*made["files"], "hashes.json"}
    for name, file in made["files"].items():
        content = there[name].read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
    assert {"install.py", "README.txt", "locked.txt", "lessons/graphs/tiny_text_gelu.json"} <= set(there)
    assert not [name for name in there if "instructor" in name]
    assert len((checkout.out / "README.txt").read_text().splitlines()) == 4  # a title and three lines
    assert "about 1.5 GB" in checkout.said[0]
    with_notes = checkout.make(instructor=True, lessons=[2])["files"]
    assert {"lessons/instructor/2_name.html", "lessons/instructor/2_name.ipynb"} <= set(with_notes)
    assert "lessons/1_name.ipynb" not in with_notes


def test_a_second_pack_fetches_only_what_is_missing_or_broken(checkout):
    first = checkout.make()
    asked = len(checkout.index.asked)
    assert checkout.make() == first
    assert len(checkout.index.asked) == asked
    dep = checkout.out / "wheels" / "dep-1.0-py3-none-any.whl"
    weights = checkout.out / "lessons" / "catch_up" / "1.1" / "weights"
    model = checkout.out / "cache" / "models" / "smollm2-135m" / "model.safetensors"
    for path in (dep, weights, model):
        path.write_bytes(b"broken")
    (checkout.out / "wheels" / "stale-0.1-py3-none-any.whl").write_bytes(b"")
    (checkout.out / "cache" / "models" / "minilm").mkdir()
    (checkout.out / "cache" / "models" / ".smollm2-135m.lock").touch()  # as a first use leaves it
    assert checkout.make() == first
    assert len(checkout.index.asked) == asked + 1
    assert weights.read_bytes() == b"trained" and model.read_bytes() == b"weights"


@pytest.mark.parametrize("where", ["_shelve", "_subject", "_lessons", "_graph", "_finish"])
def test_a_pack_that_was_killed_is_not_whole_and_goes_on(checkout, monkeypatch, where):
    whole = checkout.make()

    def killed(*args, **more):
        (checkout.out / ".part-killed").mkdir()
        (checkout.out / ".part-killed" / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shelf if where == "_shelve" else pack, where, killed)
        with pytest.raises(KeyboardInterrupt):
            checkout.make()
    with pytest.raises(install.Stop, match="is not whole"):
        install.read(checkout.out)
    assert checkout.make() == whole
    assert not list(checkout.out.glob(".part-*"))


def test_a_wheel_is_on_the_shelf_whole_or_not_at_all(checkout, monkeypatch):
    real, cut = Shelf._pip, []

    def half(self, wanted, into, target, index):
        real(self, wanted, into, target, index)
        for path in into.glob("*.whl"):
            path.write_bytes(path.read_bytes()[:40])
            cut.append(path.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "_pip", half)
        with pytest.raises(KeyboardInterrupt):
            checkout.make()
    assert cut and not list((checkout.out / "wheels").glob("dep*"))
    checkout.make()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"platforms": ["amiga"]}, "no platform is called 'amiga': there are linux, linux-aarch64, macos, windows"),
        ({"platforms": []}, "no platform was given"),
        ({"pythons": ["3.10"]}, "--python wants versions such as 3.12, from 3.11 on, got '3.10'"),
        ({"pythons": ["3.12.1"]}, "got '3.12.1'"),
        ({"lessons": [7]}, "there is no lesson 7"),
        ({"masters": Path("nowhere")}, "nowhere has no lesson"),
        ({"source": Path(__file__).parent}, "has no constraints.txt: call `workbench pack` in a checkout"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(checkout, change, said):
    with pytest.raises(ValueError) as caught:
        checkout.make(**change)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not checkout.out.exists()


def test_somebody_elses_folder_is_left_alone(checkout):
    checkout.out.mkdir()
    (checkout.out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        checkout.make()
    assert [path.name for path in checkout.out.iterdir()] == ["thesis.txt"]


def test_no_room_and_fetched_corpora_are_told(checkout, monkeypatch):
    master = checkout.source / "masters" / "1_name.ipynb"
    master.write_text(master.read_text().replace('"1"', json.dumps('wb.corpus("brown")')))
    with pytest.raises(ValueError, match="1_name.ipynb reads the corpus 'brown', which is fetched"):
        checkout.make()
    monkeypatch.setattr(pack.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(ValueError, match=r"would take about 1.5 GB, 1.0 GB are free"):
        checkout.make()


def test_the_command_says_a_mistake_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(["pack", "--out", str(tmp_path / "x"), "--platforms", "amiga"]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("workbench: no platform is called 'amiga'") and "\n" not in err


# the script


def test_the_script_asks_for_nothing_but_the_standard_library():
    tree = ast.parse(Path(install.__file__).read_text())
    asked = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    asked |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in asked} <= sys.stdlib_module_names
    first = next(n for n in tree.body if isinstance(n, ast.If))
    assert "version_info" in ast.unparse(first.test)  # before anything that an older Python does not know


def load(folder):
    """The pack's own copy of the script."""
    spec = importlib.util.spec_from_file_location("pack_install", folder / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_stops_in_one_line_and_names_the_file(checkout, monkeypatch, capsys):
    checkout.make()
    script = load(checkout.out)
    monkeypatch.setattr(script, "install", lambda *_: pytest.fail("it went on"))
    known = script.read(checkout.out)

    def stopped():
        assert script.main(checkout.out) == 1
        line = capsys.readouterr().out.strip().splitlines()[-1]
        assert line.startswith("PROBLEM    ")
        return line

    dep = checkout.out / "wheels" / "dep-1.0-py3-none-any.whl"
    good = dep.read_bytes()
    dep.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "broken: wheels/dep-1.0-py3-none-any.whl (changed)" in stopped()
    dep.unlink()
    assert "broken: wheels/dep-1.0-py3-none-any.whl (missing)" in stopped()
    dep.write_bytes(good)
    hashes = checkout.out / "hashes.json"
    text = hashes.read_bytes()
    hashes.write_bytes(text.replace(b'"dep": "1.0"', b'"dep": "1.1"'))
    assert "hashes.json is broken" in stopped()
    hashes.write_bytes(text[:100])
    assert "hashes.json is broken" in stopped()
    hashes.write_bytes(text)
    for version, said in [((3, 99, 0), "the pack is for Python"), ((3, 10, 1), "the pack is for Python")]:
        with pytest.raises(script.Stop, match=said):
            script.right_python(known, version)
    with pytest.raises(script.Stop, match=r"this is Python 3.11.4, the pack needs 3.11.5"):
        script.right_python({"python": {"3.11": "3.11.5"}}, (3, 11, 4))
    with pytest.raises(script.Stop, match="this is pypy"):
        script.right_python(known, sys.version_info[:3], "pypy")
    with pytest.raises(script.Stop, match="the pack is for linux, windows; this computer is macos"):
        script.right_system(known, "darwin", "arm64")
    with pytest.raises(script.Stop, match="this computer is darwin x86_64"):
        script.right_system(known, "darwin", "x86_64")
    script.right_system(known, "win32", "AMD64")


def test_the_folder_alone_is_installed_and_a_learners_work_is_kept(checkout, monkeypatch, capfd):
    """A real environment, from planted wheels, with settings that would lead pip elsewhere."""
    checkout.make()
    for key in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH"):
        monkeypatch.setenv(key, "/nowhere")
    script = load(checkout.out)
    platform = wheels.PLATFORMS["linux"].markers["platform_machine"]
    monkeypatch.setattr(script.platform, "machine", lambda: platform)
    assert script.main(checkout.out) == 0
    said = capfd.readouterr().out
    assert f"looked doctor --workshop {checkout.out}" in said and "start.sh" in said
    start = checkout.out / "start.sh"
    assert os.access(start, os.X_OK) and "127.0.0.1" in start.read_text() and "HF_HUB_OFFLINE=1" in start.read_text()
    mine = checkout.out / "notebooks" / "1_name.ipynb"
    made = checkout.out / "notebooks" / "catch_up" / "1.1" / "weights"
    mine.write_text("my work")
    made.write_bytes(b"spoilt")
    monkeypatch.setattr(script, "run", lambda *_: pytest.fail("it was installed again"))
    assert script.main(checkout.out) == 0
    assert mine.read_text() == "my work" and made.read_bytes() == b"trained"
    assert checkout.make()["files"]  # packing again leaves venv and notebooks alone
    assert mine.read_text() == "my work" and (checkout.out / "venv").is_dir()


@pytest.mark.parametrize(
    ("system", "name"), [("linux", "start.sh"), ("darwin", "start.command"), ("win32", "start.bat")]
)
def test_every_system_has_a_start_script(tmp_path, system, name):
    path = install.starts(tmp_path, system)
    text = path.read_bytes().decode()
    assert path.name == name
    assert all(word in text for word in ("WORKBENCH_CACHE", "HF_HUB_OFFLINE=1", "--ip=127.0.0.1", "notebooks"))
    assert (text.count("\r\n") == text.count("\n")) is (system == "win32")


# the laptop


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(laptop, "timed_product", lambda: 2 * laptop.PRODUCT)
    monkeypatch.setattr(laptop, "timed_forward", lambda: 1.5 * laptop.FORWARD)


def by_name(facts):
    return {item["name"]: item for item in facts["items"]}


def test_a_fit_laptop_is_all_well(checkout, fast, monkeypatch, capsys):
    checkout.make()
    known = install.read(checkout.out)
    install.lay_out(checkout.out, known)
    monkeypatch.setenv("WORKBENCH_CACHE", str(checkout.out / "cache"))
    monkeypatch.setattr(laptop, "_applying", lambda locked: iter([("plotly", lambda found: True)]))
    monkeypatch.setattr(laptop, "memory", lambda: laptop.Item("memory", "16 GB"))
    assert cli.main(["doctor", "--workshop"]) == 0  # the pack is the one that the cache lies in
    said = capsys.readouterr().out
    assert said.endswith("all well\n") and "PROBLEM" not in said
    assert "lessons    2, slow cells made for 1.1, 2.1" in said and "about 1.5 times as long" in said
    page = (checkout.out / "cache" / "workshop-look.html").read_text()
    assert "scattergl" in page and 'src="http' not in page
    assert cli.main(["doctor", "--workshop", str(checkout.out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    (checkout.out / "notebooks" / "catch_up" / "1.1" / "weights").write_bytes(b"spoilt")
    (checkout.out / "cache" / "models" / "smollm2-135m" / "model.safetensors").write_bytes(b"spoilt")
    assert cli.main(["doctor", "--workshop", str(checkout.out)]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM lessons    missing or changed: catch_up/1.1/weights: run install.py again" in said
    assert "PROBLEM subject" in said and "damaged" in said and said.endswith("2 problems\n")


def test_each_shortage_is_told_with_what_to_do(tmp_path, monkeypatch):
    import psutil

    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    small = SimpleNamespace(total=4e9, available=2e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    assert "4.0 GB" in laptop.memory().said and "share a laptop" in laptop.memory().todo
    small.total = 16e9
    assert "close other programs" in laptop.memory().todo
    small.available = 8e9
    assert not laptop.memory().todo
    monkeypatch.setattr(laptop.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert "make room" in laptop.disk(tmp_path / "a" / "b").todo
    monkeypatch.setattr(laptop.os, "cpu_count", lambda: 1)
    assert "slow" in laptop.cores().todo
    monkeypatch.setattr(laptop, "timed_product", lambda: 7 * laptop.PRODUCT)
    assert "about 7.0 times" in laptop.speed().said and laptop.speed().todo
    assert "run install.py again" in laptop.subject("smollm2-135m").todo
    assert laptop.python({"python": {"3.99": "3.99.1"}}).todo.startswith("the pack is for 3.99.1")
    assert not laptop.python(None).todo


def test_packages_are_held_against_the_lock_with_the_markers_of_this_machine():
    lock = pins((ROOT / "constraints.txt").read_text())
    seen = dict(laptop._applying(lock))
    assert {"torch", "jupyterlab", "ptyprocess"} <= set(seen) and not {"pytest", "mkdocs", "colorama"} & set(seen)
    assert not laptop.packages(None).todo
    old = laptop.packages(lock | {"torch": "1.0", "numpy": "1.0"})
    assert "torch is 2." in old.said and "install.py" in old.todo


def test_a_front_end_that_is_missing_is_named(monkeypatch, tmp_path):
    assert not laptop.widgets().todo
    monkeypatch.setattr(laptop.sys, "prefix", str(tmp_path))
    assert laptop.widgets().said == "without @jupyter-widgets/jupyterlab-manager, anywidget"


def test_a_folder_without_hashes_is_no_pack(tmp_path, capsys):
    assert cli.main(["doctor", "--workshop", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"workbench: {tmp_path} is no pack: it has no hashes.json\n"


def test_a_missing_package_is_a_problem_and_no_traceback(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "workbench.workshop.laptop", None)
    assert cli.main(["doctor", "--workshop"]) == 1
    assert "PROBLEM packages" in capsys.readouterr().out
