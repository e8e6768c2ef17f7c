"""A small parameterised notebook for the report's tests: figures, a card, a table, a progress bar, results."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FIGURES, CARDS = 2, 1


def write(path: Path, *more: str, fails: bool = False) -> Path:
    cells = [
        new_markdown_cell("# Does the page stand alone?\n\nA *question* and its cost: `1 < 2 & 3`."),
        new_code_cell(
            "rows: int = 3  # points\nlr = 0.5\nname = 'a'\nsmoke = False", metadata={"tags": ["parameters"]}
        ),
        new_code_cell(
            "import sys\nimport pandas as pd\nimport plotly.graph_objects as go\nfrom workbench import report\n"
            "report.glue('rows', rows)\n"
            "print('\\rstep 1/2', end='', file=sys.stderr); print('\\rstep 2/2', file=sys.stderr)"
        ),
        new_code_cell(
            "go.Figure(go.Scatter(y=list(range(rows)), name='</script><b>'), layout={'title': {'text': 'one'}})"
        ),
        new_code_cell("go.Figure(go.Bar(y=[rows, 2]), layout={'height': 260})"),
        new_code_cell(
            "from IPython.display import HTML\nfrom workbench.html import tag\n"
            "HTML(tag('article', 'a <card>', attrs={'class': 'card'}))"
        ),
        new_code_cell("pd.DataFrame({'metric': ['fvu'], 'value': [0.125]})"),
        new_code_cell("hidden = 'must not show'\nprint(hidden)", metadata={"tags": ["hide-cell"]}),
    ]
    cells += [new_code_cell(source) for source in more]
    if fails:
        cells.append(new_code_cell("raise ValueError('planted: widths must grow')"))
        cells.append(new_code_cell("print('never reached')"))
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
    notebook = new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    nbformat.write(notebook, path)
    return path


def write_slow(path: Path) -> Path:
    """A notebook whose second cell ends quickly and whose third does not; it names no kernel."""
    cells = [
        new_markdown_cell("# Does it stop?"),
        new_code_cell("rest = 300  # seconds", metadata={"tags": ["parameters"]}),
        new_code_cell("import os\nprint('kernel', os.getpid())"),
        new_code_cell("import time\ntime.sleep(rest)"),
        new_markdown_cell("It stopped, which shows"),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return path
