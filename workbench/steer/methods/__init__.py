"""One steering method per file: `name(..., ) -> strength -> Edit` in `name.py`. Strength 0 must be the identity."""
