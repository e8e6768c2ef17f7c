"""A place in a model where one vector per position can be read and written."""

from dataclasses import dataclass

STREAMS = ("attn_in", "heads", "attn_out", "mlp_in", "mlp_out", "resid")  # in the order a block computes them


@dataclass(frozen=True, order=False)
class Site:
    """`Site(12, "resid")`, text form `12.resid`: a stream of a block, `embed`, or any module as `path:in` / `path:out`.

    `resid` is the block's output; `attn_in` / `mlp_in` what the module receives, after its norm; `attn_out` / `mlp_out`
    what is added to the residual, after a post-norm where there is one; `heads` the concatenated head outputs before
    W_O.
    Raises ValueError for a stream that does not exist or a layer that does not fit it.
    """

    layer: int | None
    stream: str

    def __post_init__(self) -> None:
        if self.layer is None:
            if self.stream != "embed" and not self.stream.endswith((":in", ":out")):
                raise ValueError(f"a site without a layer is `embed`, `path:in` or `path:out`, got {self.stream!r}")
        elif self.stream not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {self.stream!r}")
        elif isinstance(self.layer, bool) or self.layer < 0:
            raise ValueError(f"layer must be 0 or more, got {self.layer}")

    @classmethod
    def of(cls, value: "Site | str") -> "Site":
        """A site from its text form; a site is returned as it is. Raises ValueError that shows the forms."""
        if isinstance(value, cls):
            return value
        text = str(value)
        if text == "embed" or text.endswith((":in", ":out")):
            return cls(None, text)
        layer, dot, stream = text.partition(".")
        if not dot or not layer.isdecimal():
            raise ValueError(f"a site reads `12.resid`, `embed`, `path:in` or `path:out`, got {text!r}")
        return cls(int(layer), stream)

    def __str__(self) -> str:
        return self.stream if self.layer is None else f"{self.layer}.{self.stream}"
