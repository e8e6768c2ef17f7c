"""Shapes are checked, one thread, no hub, a failure is told at once: a run that is stopped still says what failed."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping

CHECKED = jaxtyping.jaxtyped


def _jaxtyped(*, typechecker):
    """What the hook puts on every function; one that is made within another would be compiled anew at each call."""
    check = CHECKED(typechecker=typechecker)
    return lambda made: made if "<locals>" in getattr(made, "__qualname__", "") else check(made)


jaxtyping.jaxtyped = _jaxtyped
jaxtyping.install_import_hook("workbench", "beartype.beartype")

import pytest
import torch

import widgets  # noqa: F401 (a suite puts bench/ in front of the path, where a script has the same name)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class _AtOnce:
    def __init__(self, config: pytest.Config):
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            say = self.config.pluginmanager.get_plugin("terminalreporter")
            say.write_line(f"\n{report.nodeid}\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_AtOnce(config))
