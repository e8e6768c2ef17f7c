"""Names that people give: kept in a local JSON file, shared by all widgets that are given the same file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from workbench import lineage

LONGEST = 500  # characters of a label


class Labels(Mapping[str, str]):
    """Labels by key (a latent's number, a node's id), written to `path` at every change, or kept in memory without one.

    Raises ValueError for a file that holds something else.
    """

    def __init__(self, path: Path | str | None = None):
        self.path = None if path is None else Path(path)
        self._known: dict[str, str] = {}
        if self.path is not None and self.path.exists():
            try:
                known = json.loads(self.path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{self.path} is not JSON ({error}): mend it, or choose another file") from error
            if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
                raise ValueError(f"{self.path} must hold one text for each key: choose another file for labels")
            self._known = known

    def set(self, key: object, label: str) -> None:
        """Name something; an empty label takes the name away. Raises ValueError for a label that is too long."""
        label = " ".join(label.split())
        if len(label) > LONGEST:
            raise ValueError(f"a label has at most {LONGEST} characters, got {len(label)}")
        if label:
            self._known[str(key)] = label
        else:
            self._known.pop(str(key), None)
        if self.path is not None:
            lineage.write(self.path, (json.dumps(self._known, indent=1, ensure_ascii=False) + "\n").encode())

    def __getitem__(self, key: object) -> str:
        return self._known[str(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
