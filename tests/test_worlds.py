"""The suite of worlds: what every file in testbeds/worlds promises, checked because it is there."""

import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch

from workbench import catalogue, testbeds
from workbench.testbeds.core import BLOCK, World, rows

WORLDS = catalogue.names("worlds")


def digest(sample) -> str:
    h = hashlib.sha256()
    for value in sample:
        h.update(str(value.dtype).encode() + str(tuple(value.shape)).encode() + value.contiguous().numpy().tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_says_what_it_is(name):
    world = testbeds.world(name)
    assert isinstance(world, World)
    assert len(catalogue.module("worlds", name).__doc__) > 200, "the docstring states the generative process"
    assert type(world).__doc__ and catalogue.entry("worlds", name).__doc__
    json.dumps(catalogue.bound("worlds", name))
    assert world.truth is not None


@pytest.mark.parametrize("name", WORLDS)
def test_a_sample_is_a_window_on_one_stream(name):
    world = testbeds.world(name)
    whole = world.sample(40, 3)
    assert all(isinstance(v, torch.Tensor) and len(v) == 40 for v in whole)
    assert whole._fields
    part = world.sample(15, 3, 20)
    assert digest(part) == digest([v[20:35] for v in whole])
    assert digest(world.sample(40, 4)) != digest(whole), "the seed changes nothing"
    assert digest(world.sample(40, 3, 40)) != digest(whole), "the stream repeats"
    assert len(world.sample(0)[0]) == 0
    with pytest.raises(ValueError, match="0 or more"):
        world.sample(-1)


def test_a_stream_is_seed_stable_across_processes():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_worlds as t\n"
        "print('\\n'.join(f'{n} {t.digest(t.testbeds.world(n).sample(50, 7, 1000))}' for n in t.WORLDS))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [f"{n} {digest(testbeds.world(n).sample(50, 7, 1000))}" for n in WORLDS]
    assert said.splitlines() == here


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_can_be_seen(name):
    world = testbeds.world(name)
    figure = world.figure()
    assert figure.data and figure.layout.title.text
    html = world._repr_html_()
    assert len(html) < 20_000 and not re.search(r"<script|https?:", html)
    parser = HTMLParser()
    parser.feed(html)
    parser.close()
    assert html.startswith("<") and re.sub(r"<[^>]+>", "", html).strip()


def test_blocks_join_without_a_seam():
    class One(tuple):
        _fields = ("x",)

        def __new__(cls, x):
            return tuple.__new__(cls, (x,))

    def draw(rng, n):
        return One(torch.from_numpy(rng.random(n)))

    whole = rows(draw, 2 * BLOCK + 5, 1)[0]
    assert len(whole.unique()) == len(whole)
    torch.testing.assert_close(rows(draw, 20, 1, BLOCK - 10)[0], whole[BLOCK - 10 : BLOCK + 10])
    assert len(rows(draw, 3, 1, 2 * BLOCK)[0]) == 3
