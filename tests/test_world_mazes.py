"""Mazes against their texts, read and walked slowly in plain Python."""

from collections import Counter, deque

import pytest

from workbench.testbeds.worlds.mazes import mazes


def read(words, size):
    """Neighbours, start, goal and path, from the words of one text alone."""
    assert words[0] == "<maze>" and words[size**2] == "<from>"
    near = {c + str(r + 1): set() for c in "abcdefgh"[:size] for r in range(size)}
    for word in words[1 : size**2]:
        a, b = word.split("-")
        assert abs(ord(a[0]) - ord(b[0])) + abs(int(a[1:]) - int(b[1:])) == 1
        assert b not in near[a], "a connection is told twice"
        near[a].add(b)
        near[b].add(a)
    assert (words[size**2 + 2], words[size**2 + 4]) == ("<to>", "<path>")
    end = words.index("<end>")
    assert set(words[end + 1 :]) <= {"<pad>"}
    return near, words[size**2 + 1], words[size**2 + 3], words[size**2 + 5 : end]


def distances(near, goal):
    steps, queue = {goal: 0}, deque([goal])
    while queue:
        here = queue.popleft()
        for there in near[here]:
            if there not in steps:
                steps[there] = steps[here] + 1
                queue.append(there)
    return steps


@pytest.mark.parametrize(("size", "n"), [(4, 10_000), (2, 200), (6, 200)])
def test_every_label_agrees_with_a_slow_walk_through_the_text(size, n):
    world = mazes(size)
    words = world.words
    ids, connected, start, goal, distance = (v.tolist() for v in world.sample(n, 3))
    for i in range(n):
        near, a, b, path = read([words[t] for t in ids[i]], size)
        steps = distances(near, b)
        assert len(steps) == size**2, "a cell cannot be reached"
        assert sum(map(len, near.values())) == 2 * (size**2 - 1)  # connected with size^2 - 1 edges: a tree
        assert (words[start[i]], words[goal[i]]) == (a, b) and a != b
        assert distance[i] == [steps[w] for w in words[: size**2]]
        for c in range(size**2):
            assert {words[k] for k in range(size**2) if connected[i][c][k]} == near[words[c]]
        assert path[0] == a and path[-1] == b and len(path) == steps[a] + 1
        assert all(y in near[x] for x, y in zip(path, path[1:], strict=False))


def test_all_trees_of_a_small_grid_are_equally_likely():
    n = 20_480
    seen = Counter(tuple(x) for x in mazes(3).sample(n, 1).connected.flatten(1).tolist())
    assert len(seen) == 192  # spanning trees of the 3x3 grid (Kirchhoff)
    p = 1 / 192
    chi = sum((k - n * p) ** 2 / (n * p) for k in seen.values())
    assert abs(chi - 191) < 4 * (2 * 191) ** 0.5  # chi-squared with 191 degrees of freedom, 4 sigma


def test_start_and_goal_are_uniform_and_the_order_of_connections_is_random():
    n, maze = 10_240, mazes().sample(10_240, 2)
    pairs = (maze.start * 16 + maze.goal).bincount(minlength=256).double()
    assert (pairs.view(16, 16).diagonal() == 0).all()
    p = 1 / 240
    chi = float(((pairs[pairs > 0] - n * p) ** 2 / (n * p)).sum())
    assert (pairs > 0).sum() == 240 and abs(chi - 239) < 4 * (2 * 239) ** 0.5
    rising = (maze.ids[:, 1:15] < maze.ids[:, 2:16]).double().mean(-1)  # half of the neighbours, if the order is random
    assert abs(float(rising.mean()) - 0.5) < 4 * float(rising.std()) / n**0.5


@pytest.mark.parametrize("size", [1, 9])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="2 to 8"):
        mazes(size)
