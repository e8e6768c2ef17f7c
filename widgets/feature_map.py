"""A map of latents that says how far it can be believed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import traitlets as t

from workbench.geometry import Plane

from . import payload
from .base import STATIC, Widget

PAGE = 10  # lines of the table
MOST_FOUND = 300  # latents that a search in Python names
NEAREST, KEPT, MATCHED, MATCH, PICKED = (
    "nearest cosine", "neighbours kept", "matched", "match cosine", "cosine with the picked",
)  # fmt: skip


class FeatureMap(Widget):
    """Points coloured by a column; neighbours in the original space on click; lasso to a table; trust beside the map.

        plane = geometry.plane(codec.atoms(), mask=index.alive)
        FeatureMap(plane=plane, table=index.table, codec=codec, dashboard=dashboard)

    `latent` is the one picked (-1: none), `selection` the latents inside the lasso; both can be set. `table` has a line
    for each latent (a column `latent`, or as many lines as the plane has vectors): columns are colours, `label` and
    `top_token` are shown and searched. `color` is "density" if there is one, else the cosine of the nearest latent.
    `size` is a column of numbers: points grow with their rank in it. `codec` (or its atoms) gives a colour by the
    cosine with the picked latent. `dashboard` is anything with a trait `latent`: linked both ways.

    `other` is a second plane beside the first, `match` a table of the latents that correspond: columns `a`, `b`, and
    `cosine` if known; `other_latent`, `other_selection`, `other_table`, `titles` speak of it.
    Raises ValueError for a table, column or match that does not fit the planes.
    """

    _esm, _css = STATIC / "feature_map.js", STATIC / "feature_map.css"
    latent = t.Int(-1).tag(sync=True)
    selection = t.List(t.Int()).tag(sync=True)
    other_latent = t.Int(-1).tag(sync=True)
    other_selection = t.List(t.Int()).tag(sync=True)
    color = t.Unicode().tag(sync=True)
    maps = t.List().tag(sync=True)
    pairs = t.Dict().tag(sync=True)
    near = t.Dict().tag(sync=True)  # neighbours of what was picked, where the state does not hold those of all
    told = t.Dict().tag(sync=True)  # a colour that the state does not hold: name, columns (one for each map)
    query = t.Dict().tag(sync=True)  # what the table shows: side, sort (a column), descending, page
    rows = t.Dict().tag(sync=True)
    seek = t.Dict().tag(sync=True)  # a text to look for, or side and latent whose words are wanted
    found = t.Dict().tag(sync=True)
    spoken = t.Dict().tag(sync=True)
    _dashboard: Any = None

    def __init__(
        self,
        *,
        plane: Plane,
        table: pd.DataFrame | None = None,
        color: str | None = None,
        size: str | None = None,
        codec: Any = None,
        other: Plane | None = None,
        other_table: pd.DataFrame | None = None,
        match: pd.DataFrame | None = None,
        dashboard: Any = None,
        titles: Sequence[str] = ("A", "B"),
        height: int = 520,
    ):
        planes = [plane] if other is None else [plane, other]
        for one in planes:
            if not isinstance(one, Plane):
                raise TypeError(f"a map wants planes of workbench.geometry.plane(...), got {type(one).__name__}")
        if other is None and (match is not None or other_table is not None):
            raise ValueError("match and other_table speak of a second plane: give it as other=")
        if isinstance(titles, str) or len(titles) != 2:
            raise ValueError(f"titles wants two names, got {titles!r}")
        if not 240 <= height <= 1200:
            raise ValueError(f"height is in pixels, 240 to 1,200, got {height}")
        if dashboard is not None and not (isinstance(dashboard, t.HasTraits) and dashboard.has_trait("latent")):
            raise TypeError(f"dashboard must have a trait `latent`, got {type(dashboard).__name__}")
        self._atoms = _atoms(codec, plane)
        self._places = [{n: i for i, n in enumerate(one.latents.tolist())} for one in planes]
        pairs = {} if match is None else payload.map_pairs(_matches(match), self._places)
        self._near = [payload.map_near(one) for one in planes]
        self._frames = []
        for side, (one, given) in enumerate(zip(planes, (table, other_table), strict=False)):
            own = {NEAREST: one.cosines[:, 0].numpy(), KEPT: self._near[side]["kept"], **_matched(pairs, side, one)}
            self._frames.append(_frame(one, given, own))
        self._columns = [_columns(frame) for frame in self._frames]
        names = [*self._columns[0], *([PICKED] if codec is not None else [])]
        color = color or ("density" if "density" in names else NEAREST)
        for what, name in (("color", color), ("size", size or color)):
            if name not in names:
                raise ValueError(f"{what} must be one of {', '.join(names)}, got {name!r}")
        if size is not None and self._columns[0][size]["kind"] != "number":
            raise ValueError(f"size must be a column of numbers, got {size!r}")
        maps = []
        for side, one in enumerate(planes):
            maps.append(
                {
                    "title": payload.text(titles[side]) if other is not None else "",
                    "height": height,
                    "trust": payload.map_trust(one),
                    **payload.map_points(one),
                    **self._fitted(side, color, size, payload.MAP_MOST // len(planes)),
                }
            )
        number = self._columns[0].get(color, {}).get("kind") == "number"
        sort = color if number else "density" if "density" in self._frames[0] else "latent"
        query = {"side": 0, "sort": sort, "descending": sort != "latent", "page": 0}
        super().__init__(color=color, maps=maps, pairs=pairs, query=query)
        self.rows = self._page()
        self.observe(self._picked, ["latent", "other_latent"])
        self.observe(self._selected, ["selection", "other_selection"])
        self.observe(lambda _: self.work("sorting", lambda _: self.put(rows=self._page()), key="rows"), "query")
        self.observe(self._coloured, "color")
        self.observe(self._sought, "seek")
        self._dashboard: Any = dashboard
        if dashboard is not None:
            dashboard.observe(self._followed, "latent")
            self._followed({"new": self._dashboard.latent})

    def close(self) -> None:
        if self._dashboard is not None:
            self._dashboard.unobserve(self._followed, "latent")
            self._dashboard = None
        super().close()

    @t.validate("selection", "other_selection")
    def _on_the_map(self, proposal: Any) -> list[int]:
        side = int(proposal["trait"].name == "other_selection")
        known = self._places[side] if side < len(self._places) else {}
        if lost := [n for n in proposal["value"] if n not in known]:
            raise ValueError(f"{len(lost)} of the latents are not on the map, the first is {lost[0]}")
        return proposal["value"]

    @t.validate("latent", "other_latent")
    def _one_on_the_map(self, proposal: Any) -> int:
        if proposal["value"] != -1:
            side = int(proposal["trait"].name == "other_latent")
            if side >= len(self._places) or proposal["value"] not in self._places[side]:
                raise ValueError(f"latent {proposal['value']} is not on the map (-1 picks none)")
        return proposal["value"]

    @t.validate("color")
    def _a_column(self, proposal: Any) -> str:
        names = [*self._columns[0], *([PICKED] if self._atoms is not None else [])]
        if proposal["value"] not in names:
            raise ValueError(f"color must be one of {', '.join(names)}, got {proposal['value']!r}")
        return proposal["value"]

    def _fitted(self, side: int, color: str, size: str | None, most: int) -> dict[str, Any]:
        """The parts of a map that the state has room for; the colour shown and what is needed for it always."""
        frame, columns = self._frames[side], self._columns[side]
        left = most - 12 * len(frame)  # positions and numbers
        made: dict[str, Any] = {}
        if size is not None and side == 0:
            made["sizes"] = payload.map_ranks(frame[size].to_numpy(np.float64))
            made["size"] = payload.text(size)
            left -= len(frame)
        shown = columns.get(color)
        left -= len(shown["data"]) if shown else 0
        words = {name: payload.map_words(frame[name]) for name in payload.MAP_TEXTS if name in frame}
        weight = int(0.75 * len(json.dumps(words, ensure_ascii=False).encode()))  # binary parts grow by a third in JSON
        made["silent"] = bool(words) and weight > left  # then Python is asked for words
        if not made["silent"]:
            left -= weight
            made["words"] = words
        near = {name: self._near[side][name] for name in ("k", "wide", "near", "cosines", "close")}
        if (weight := sum(len(v) for v in near.values() if isinstance(v, bytes))) <= left:
            left -= weight
            made["neighbours"] = near
        made["columns"] = []
        for column in columns.values():
            fits = column is shown or len(column["data"]) <= left
            left -= len(column["data"]) if fits and column is not shown else 0
            made["columns"].append(column if fits else {k: v for k, v in column.items() if k != "data"})
        if side == 0 and self._atoms is not None:
            made["columns"].append({"name": PICKED, "kind": "number"})
        return made

    def _page(self) -> dict[str, Any]:
        asked = self.query
        side = int(asked.get("side") == 1 and len(self._frames) == 2)
        frame = self._frames[side]
        chosen = self.other_selection if side else self.selection
        sort = str(asked["sort"]) if asked.get("sort") in frame.columns else "latent"
        down, page = bool(asked.get("descending")), int(asked.get("page") or 0)
        latents = chosen or list(self._places[side])
        made = payload.map_rows(frame, latents, sort=sort, descending=down, page=page, most=PAGE)
        return {**made, "side": side, "all": not chosen, "sort": sort, "descending": down}

    def _selected(self, change: Any) -> None:
        side = int(change["name"] == "other_selection")
        if not change["new"] and (self.selection or self.other_selection):
            side = 1 - side  # a lasso on one map clears the other's
        query = {**self.query, "side": side, "page": 0}
        if query == self.query:
            self.work("sorting", lambda _: self.put(rows=self._page()), key="rows")
        else:
            self.query = query

    def _picked(self, change: Any) -> None:
        latent, side = change["new"], int(change["name"] == "other_latent")
        if self.error:
            self.error = ""
        if latent < 0:
            return
        if "neighbours" not in self.maps[side]:
            point = self._places[side][latent]
            self.near = {"side": side, "latent": latent, **payload.map_near_of(self._near[side], point)}
        if side == 0:
            if self.color == PICKED:
                self._coloured()
            if self._dashboard is not None and self._dashboard.latent != latent:
                self._dashboard.latent = latent

    def _followed(self, change: Any) -> None:
        latent = change["new"]
        if latent in self._places[0]:
            self.latent = latent
        elif isinstance(latent, int) and latent >= 0:
            self.put(latent=-1, error=f"latent {latent} is not on the map: it was left out when the plane was made")

    def _coloured(self, _: Any = None) -> None:
        color, latent = self.color, self.latent
        if color != PICKED:
            if any(c["name"] == color and "data" not in c for m in self.maps for c in m["columns"]):
                self.told = {"name": color, "columns": [columns.get(color) for columns in self._columns]}
        elif latent >= 0 and (atoms := self._atoms) is not None:
            self.work("comparing with the picked latent", lambda _: self._compared(atoms, latent), key="color")

    def _compared(self, atoms: torch.Tensor, latent: int) -> None:
        one = atoms[self._places[0][latent]][None]
        cosines = torch.cosine_similarity(atoms.float(), one.float(), dim=-1).numpy()
        columns = [payload.map_column(PICKED, cosines), None][: len(self._places)]
        self.put(told={"name": PICKED, "latent": latent, "columns": columns})

    def _sought(self, change: Any) -> None:
        asked = change["new"]
        if text := str(asked.get("text", "")).strip():
            self.work(
                "searching", lambda _: self.put(found={"text": asked["text"], "sides": self._search(text)}), key="seek"
            )
            return
        side = int(asked.get("side") == 1 and len(self._frames) == 2)
        if asked.get("latent") in self._places[side]:
            line = self._frames[side].loc[asked["latent"]]
            words = {name: payload.map_words([line[name]])[0] for name in payload.MAP_TEXTS if name in line}
            self.spoken = {"side": side, "latent": asked["latent"], "words": words}

    def _search(self, text: str) -> list[dict[str, Any]]:
        """On each map: how many latents have the text in their words or as their number, and the first of them."""
        made = []
        for frame, places in zip(self._frames, self._places, strict=True):
            hit = np.zeros(len(frame), bool)
            for name in payload.MAP_TEXTS:
                if name in frame:
                    hit |= frame[name].astype(str).str.contains(text, case=False, regex=False).to_numpy()
            if text.isdigit() and int(text) in places:
                hit[places[int(text)]] = True
            found = np.flatnonzero(hit)
            made.append({"total": len(found), "points": found[:MOST_FOUND].tolist()})
        return made


def _atoms(codec: Any, plane: Any) -> torch.Tensor | None:
    """Atoms of the latents on the map. Raises ValueError unless there is one for each vector of the plane."""
    if codec is None:
        return None
    atoms = codec if isinstance(codec, torch.Tensor) else codec.atoms()
    if atoms.ndim < 2 or len(atoms) != len(plane.xy):
        raise ValueError(f"codec must have {len(plane.xy)} atoms, as the plane has vectors, got {tuple(atoms.shape)}")
    return atoms.detach().cpu()[plane.latents].flatten(1)


def _matches(match: Any) -> pd.DataFrame:
    if not isinstance(match, pd.DataFrame) or not {"a", "b"} <= set(match.columns):
        raise ValueError("match must be a table with columns a and b (latents of the first and the second plane)")
    for name in ("a", "b"):
        if not pd.api.types.is_integer_dtype(match[name]):
            raise ValueError(f"column {name} of match must hold whole numbers, got {match[name].dtype}")
    return match


def _matched(pairs: Mapping[str, Any], side: int, plane: Any) -> dict[str, Any]:
    """Columns that say which latents have a match, and how near it is."""
    if not pairs:
        return {}
    at = np.frombuffer(pairs["b" if side else "a"], "<i4")
    cosines = np.frombuffer(pairs["cosines"], "<f4")
    best = np.full(len(plane.latents), np.nan)
    np.fmax.at(best, at, cosines)
    made = {MATCHED: np.isin(np.arange(len(best)), at)}
    return {**made, MATCH: best} if np.isfinite(best).any() else made


def _frame(plane: Any, table: pd.DataFrame | None, own: Mapping[str, Any]) -> pd.DataFrame:
    """The table of the latents on the map, numbered by them, our own columns last."""
    latents = plane.latents.tolist()
    frame = pd.DataFrame(index=range(len(plane.xy))) if table is None else table
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"table must be a pandas DataFrame, got {type(frame).__name__}")
    if "latent" in frame.columns:
        frame = frame.set_index("latent")
    elif len(frame) == len(plane.xy):
        frame = frame.set_axis(range(len(frame)))
    else:
        raise ValueError(
            f"table wants a column `latent`, or a line for each of {len(plane.xy)} vectors, got {len(frame)}"
        )
    frame = frame.rename(columns=str)
    if not frame.index.is_unique or not frame.columns.is_unique:
        raise ValueError("table must have one line for each latent and one column of each name")
    if lost := sorted(set(latents) - set(frame.index)):
        raise ValueError(f"table has no line for {len(lost)} latents on the map, the first is {lost[0]}")
    frame = frame.loc[latents]
    plain = [n for n in frame if pd.api.types.is_numeric_dtype(frame[n]) or payload.map_plain(frame[n])]
    first = [n for n in payload.MAP_TEXTS if n in plain]
    frame = frame[[*first, *(n for n in plain if n not in first)]]
    return frame.assign(**{name: values for name, values in own.items() if name not in frame})


def _columns(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What points can be coloured by."""
    made = {n: payload.map_column(n, frame[n]) for n in frame if n not in payload.MAP_TEXTS}
    return {name: column for name, column in made.items() if column is not None}
