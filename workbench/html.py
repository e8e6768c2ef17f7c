"""The one place that turns text into HTML: everything that came from data goes through `tag` or `escape`."""

import html
from collections.abc import Mapping


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """HTML-safe form of any text; markup is left as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text), quote=True))


def tag(name: str, *children: object, attrs: Mapping[str, object] | None = None) -> Markup:
    """An element. Children and attribute values are escaped unless Markup; an attribute of None is left out."""
    given = "".join(f' {key}="{escape(value)}"' for key, value in (attrs or {}).items() if value is not None)
    return Markup(f"<{name}{given}>{''.join(escape(child) for child in children)}</{name}>")


def join(*parts: object) -> Markup:
    """Several pieces as one."""
    return Markup("".join(escape(part) for part in parts))
