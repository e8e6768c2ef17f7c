"""Results that a notebook leaves behind: named JSON values in its outputs."""

import json
from typing import Any

SCRAP = "application/vnd.workbench.scrap+json"


def glue(name: str, value: Any) -> None:
    """Record a result under a name; it shows nothing. Scalars, strings, lists and small tables of them.

    Raises ValueError for what is no JSON (NaN included): convert arrays with `.tolist()`, keep big ones in files.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"result {name!r} is no plain JSON ({error}): give numbers, text, lists or dicts") from None
    from IPython.display import display

    display({SCRAP: {"name": name, "value": value}}, raw=True)


def scraps(notebook: Any) -> dict[str, Any]:
    """All results of an executed notebook by name; the last one wins."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if SCRAP in output.get("data", {}):
                scrap = output["data"][SCRAP]
                found[scrap["name"]] = scrap["value"]
    return found
