"""A value beside its null: z and p by hand, on either side, and without draws."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from workbench.geometry.beside import Against, framed

DRAWS = torch.tensor([1.0, 2.0, 3.0])


def test_z_and_p_by_hand():
    high, low = Against(3.0, DRAWS), Against(1.0, DRAWS, lower=True)
    assert (high.mean, high.sd, high.z, high.p) == (2.0, 1.0, 1.0, 0.5)
    assert (low.z, low.p, Against(4, DRAWS).p, Against(0, DRAWS, lower=True).p) == (-1.0, 0.5, 0.25, 0.25)
    assert Against(2, torch.tensor([1, 2, 3])).p == 0.75


def test_a_null_that_is_every_case_counts_no_one_twice():
    assert Against(3.0, DRAWS, whole=True).p == pytest.approx(1 / 3)


def test_equal_draws_count_though_rounding_parts_them():
    assert Against(0.1 + 0.2, torch.tensor([0.3], dtype=torch.float64)).p == 1.0


def test_a_null_that_does_not_vary_has_no_z_and_none_has_no_p():
    assert np.isnan(Against(1.0, torch.zeros(1)).z) and np.isnan(Against(1.0, torch.zeros(5)).z)
    assert np.isnan(Against(1.0, torch.zeros(0)).p)


def test_a_frame_has_room_for_its_caption():
    short, long = (framed(go.Figure(), "t", "A sentence. " * n) for n in (1, 6))
    assert long.layout.height - short.layout.height == long.layout.margin.t - short.layout.margin.t > 0
    assert long.layout.title.subtitle.text.count("<br>") >= 5
