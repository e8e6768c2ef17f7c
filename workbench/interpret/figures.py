"""Figures of all latents at once."""

from typing import Any

import numpy as np

from .index import Index


def density_figure(index: Index, *, title: str = "How often latents fire") -> Any:
    """Plotly histogram of log10 density over the latents that fire; the share that never does is in the subtitle."""
    import plotly.graph_objects as go

    density = index.table["density"].to_numpy()
    alive = density[density > 0]
    figure = go.Figure()
    if len(alive):
        shown = np.log10(alive)
        low = np.floor(shown.min() * 5) / 5
        figure.add_histogram(
            x=shown,
            xbins={"start": low, "end": 0.2, "size": 0.1},
            marker={"color": "#5b7db1", "line": {"width": 0}},
            hovertemplate="log10 density %{x}<br>%{y} latents<extra></extra>",
        )
        middle = float(np.median(alive))
        figure.add_vline(
            x=float(np.log10(middle)),
            line={"dash": "dot", "color": "#888"},
            annotation={"text": f"median {middle:.2%}", "yshift": 16},
        )
    figure.update_xaxes(title="log10 of the share of tokens on which a latent fires")
    figure.update_yaxes(title="latents")
    figure.update_layout(
        title={"text": title, "subtitle": {"text": f"{index.dead_notice}."}},
        template="plotly_white",
        height=380,
        bargap=0.04,
        showlegend=False,
    )
    return figure
