"""Mazes against their texts, read and walked slowly in plain Python."""

from collections import Counter, deque

import pytest
import torch

from workbench.testbeds.worlds import mazes as z
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


class Walker(torch.nn.Module):
    """Says the token that `go(row)` names after each token; it knows the mazes by their texts."""

    def __init__(self, ids, go):
        super().__init__()
        self.row, self.go = {tuple(x[:-1]): i for i, x in enumerate(ids.tolist())}, go

    def forward(self, input_ids):
        said = torch.tensor([self.go(self.row[tuple(x)]) for x in input_ids.tolist()])
        return type("Out", (), {"logits": torch.nn.functional.one_hot(said, len(z.WORLD.words)).float()})


def test_the_scores_are_those_of_walkers_of_known_skill():
    maze, words, first = z.WORLD.sample(2048, 3), z.WORLD.words, 16 + 5
    truth, end, texts = maze.ids[:, 1:].tolist(), words.index("<end>"), []
    for ids in maze.ids.tolist():
        near, _, goal, path = read([words[t] for t in ids], 4)
        texts.append((near, distances(near, goal), path))
    name = {w: i for i, w in enumerate(words)}

    def walk(step):
        """Tokens after each of a text, by `step(near, distance, cell)` at the path's cells."""

        def go(i):
            near, steps, path = texts[i]
            said = list(truth[i])
            for k, cell in enumerate(path):
                said[first + k] = step(near, steps, cell)
            return said

        return go

    def best(near, steps, cell):
        return end if steps[cell] == 0 else name[min(near[cell], key=lambda c: steps[c])]

    def back(near, steps, cell):  # away from the goal where it can
        return end if steps[cell] == 0 else name[max(near[cell], key=lambda c: steps[c])]

    def endless(near, steps, cell):  # one more valid step, where none is asked for
        return name[min(near[cell])] if steps[cell] == 0 else best(near, steps, cell)

    def wall(near, steps, cell):
        beside = [c for c in near if abs(ord(c[0]) - ord(cell[0])) + abs(int(c[1]) - int(cell[1])) == 1]
        return name[next((c for c in beside if c not in near[cell]), cell)]

    alone = [all(len(near[c]) == 1 or steps[c] == 0 for c in path) for near, steps, path in texts]
    expected = {best: (1, 1), back: (1, sum(alone) / 2048), endless: (1, 0), wall: (0, 0), lambda *_: end: (0, 0)}
    doors = [len(near[c]) for near, _, path in texts for c in path[:-1]]
    luck = sum(torch.tensor([1 / len(near[c]) for c in path[:-1]]).prod().item() for near, _, path in texts) / 2048
    for step, (share, whole) in expected.items():
        valid, exact = z.TASKS["mazes"].quality(Walker(maze.ids, walk(step)), 3)
        assert (valid.value, exact.value) == pytest.approx((share, whole)) and valid.n == exact.n == 2048
        assert valid.chance == pytest.approx(sum(doors) / len(doors) / 16) and exact.chance == pytest.approx(luck)


def test_the_loss_is_that_of_the_path_after_its_start():
    task, words = z.TASKS["mazes"], z.WORLD.words
    ids = task.batch(0, 4)
    logits = torch.randn(*ids.shape, len(words), generator=torch.Generator().manual_seed(0))

    class Model(torch.nn.Module):
        def forward(self, input_ids):
            assert torch.equal(input_ids, ids[:, :-1])
            return type("Out", (), {"logits": logits[:, :-1]})

    each = []
    for i, row in enumerate(ids.tolist()):
        said = [words[t] for t in row]
        for at in range(said.index("<path>") + 2, said.index("<end>") + 1):
            each.append(-float(logits[i, at - 1].log_softmax(-1)[row[at]]))
    assert float(task.loss(Model(), ids)) == pytest.approx(sum(each) / len(each), rel=1e-5)


@pytest.mark.parametrize("size", [1, 9])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="2 to 8"):
        mazes(size)
