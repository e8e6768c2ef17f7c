"""The exercises by number, `lesson_1.py` and so on holding one lesson each, and what their slow cells would make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

from .. import lineage
from ..html import tag
from .hints import NotYet


class Wrong(NamedTuple):
    """A wrong answer as learners give it, and words of the hint that it must get."""

    what: str
    answer: Any
    hint: str


@dataclass(frozen=True)
class Exercise:
    """`check(answer)` says what a right answer shows, or raises NotYet. `right` and `wrong` make answers to test it."""

    check: Callable[[Any], str]
    right: Callable[[], Any]
    wrong: Callable[[], Sequence[Wrong]]


@dataclass(frozen=True)
class Right:
    """What the learner sees of a right answer: one line."""

    name: str
    meaning: str

    def __repr__(self) -> str:
        return f"{self.name} is right. {self.meaning}"

    def _repr_html_(self) -> str:
        return tag("p", tag("b", f"{self.name} is right. "), self.meaning, attrs={"class": "right"})


def names(lesson: int | None = None) -> list[str]:
    """Numbers of all exercises, or of one lesson's."""
    lessons = _lessons() if lesson is None else [lesson]
    return [name for one in lessons for name in _module(one).EXERCISES]


def exercise(name: str) -> Exercise:
    """An exercise by its number, "1.2". Raises ValueError that lists those there are."""
    lesson = str(name).partition(".")[0]
    found = _module(int(lesson)).EXERCISES if lesson.isdecimal() and int(lesson) in _lessons() else {}
    if name not in found:
        raise ValueError(f"there is no exercise {name!r}: choose from {', '.join(names())}")
    return found[name]


def check(name: str, answer: Any) -> Right:
    """One line that says what a right answer shows; raises NotYet, whose message is a hint, for any other."""
    found = exercise(name)
    try:
        return Right(name, found.check(answer))
    except NotYet as hint:
        raise NotYet(f"{name} is not right yet: {hint}") from None


def caught_up(name: str, *, small: bool = False, folder: Path | str = "catch_up") -> Any:
    """What the slow cell of an exercise makes, loaded or else made in less than half a minute.

    From `folder` beside the notebook where `workbench workshop build` left it, else from the cache, which keeps what is
    made now. `small`: as at smoke size. Raises ValueError for an exercise without a slow cell.
    """
    exercise(name)
    makers = _module(int(name.partition(".")[0])).CAUGHT_UP
    if name not in makers:
        raise ValueError(f"{name} has no slow cell to catch up with: {', '.join(makers) or 'none of its lesson'} has")
    place = Path(folder) / name
    if not place.is_dir() or small:
        place = lineage.cache() / "workshop" / (f"{name}-small" if small else name)
    return makers[name](place, small)


def make_catch_up(name: str, folder: Path) -> None:
    """Write what `caught_up` loads."""
    exercise(name)
    _module(int(name.partition(".")[0])).CAUGHT_UP[name](folder / name, False)


def _lessons() -> list[int]:
    found = [m.name for m in iter_modules([str(Path(__file__).parent)])]
    return sorted(int(n.removeprefix("lesson_")) for n in found if n.removeprefix("lesson_").isdecimal())


def _module(lesson: int) -> Any:
    return import_module(f".lesson_{lesson}", __package__)
