"""Every method by name: the folder is the registry, a file is an entry, a signature is a configuration."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

FOLDERS = {
    "variants": "workbench.dictionary.variants",
    "formats": "workbench.dictionary.formats",
    "evals": "workbench.evaluate.evals",
    "methods": "workbench.steer.methods",
    "tracers": "workbench.circuits.tracers",
    "worlds": "workbench.testbeds.worlds",
    "prompts": "workbench.testbeds.prompts",
    "scorers": "workbench.interpret.scorers",
}


OWN = {  # what a file's function is called where it does not bear the file's name: the first that is there
    "variants": ("recipe",),
    "formats": ("read",),
    "tracers": ("trace", "effects", "heads", "by_head", "latents", "Forms"),
}
MANY = 25  # entries beyond which an error names only those with a like name


def names(folder: str) -> list[str]:
    """Names of all entries of a registry folder, sorted."""
    if folder not in FOLDERS:
        raise ValueError(f"registry must be one of {', '.join(FOLDERS)}, got {folder!r}")
    return sorted(m.name for m in iter_modules(import_module(FOLDERS[folder]).__path__) if not m.name.startswith("_"))


def module(folder: str, name: str) -> ModuleType:
    """The file of an entry. Raises ValueError that lists the entries there are, of many those with a like name."""
    known = names(folder)
    if name not in known:
        like = known if len(known) <= MANY else get_close_matches(name, known, 8, 0.4) or known[:8]
        rest = "" if len(like) == len(known) else f" ... (catalogue.names({folder!r}) has all {len(known)})"
        raise ValueError(f"{folder} has no {name!r}: choose from {', '.join(like)}{rest}")
    return import_module(f"{FOLDERS[folder]}.{name}")


def entry(folder: str, name: str) -> Callable[..., Any]:
    """The entry's function: `recipe` in a variant, `trace` or its like in a tracer, else what bears the file's name."""
    found = module(folder, name)
    return getattr(found, next(own for own in (*OWN.get(folder, ()), name) if hasattr(found, own)))


def bound(folder: str, name: str, **args: Any) -> dict[str, Any]:
    """The full call, defaults filled in. Raises TypeError that shows the signature when the arguments do not fit."""
    signature = inspect.signature(entry(folder, name))
    try:
        call = signature.bind(**args)
    except TypeError as error:
        raise TypeError(f"{name}{signature}: {error}") from None
    call.apply_defaults()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in call.arguments.items()}  # as JSON gives it back


def table(folder: str) -> list[dict[str, str]]:
    """Name, signature and first docstring line of every entry, for menus and the docs."""
    return [
        {
            "name": name,
            "signature": str(inspect.signature(entry(folder, name))),
            "what": (inspect.getdoc(module(folder, name)) or "").partition("\n")[0],
        }
        for name in names(folder)
    ]
