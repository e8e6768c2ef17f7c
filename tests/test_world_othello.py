"""Othello's labels against the rules, played slowly on lists."""

import pytest
import torch

from workbench.testbeds.worlds import othello as o
from workbench.testbeds.worlds.othello import othello

WAYS = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]


def turned(board, n, r, c, colour):
    """Discs that a move of `colour` to (r, c) turns; none: the move is not legal."""
    if board[r][c]:
        return []
    found = []
    for dr, dc in WAYS:
        run, y, x = [], r + dr, c + dc
        while 0 <= y < n and 0 <= x < n and board[y][x] == 3 - colour:
            run.append((y, x))
            y, x = y + dr, x + dc
        if run and 0 <= y < n and 0 <= x < n and board[y][x] == colour:
            found += run
    return found


def legal(board, n, colour):
    return [bool(turned(board, n, r, c, colour)) for r in range(n) for c in range(n)]


def stable(board, n):
    """The documented rule, disc by disc until nothing changes."""
    safe = set()

    def guarded(r, c, dr, dc):
        line = [(r + i * dr, c + i * dc) for i in range(-n, n + 1)]
        if all(board[y][x] for y, x in line if 0 <= y < n and 0 <= x < n):
            return True
        for y, x in ((r + dr, c + dc), (r - dr, c - dc)):
            if not (0 <= y < n and 0 <= x < n) or ((y, x) in safe and board[y][x] == board[r][c]):
                return True
        return False

    grown = True
    while grown:
        grown = False
        for r in range(n):
            for c in range(n):
                axes = ((0, 1), (1, 0), (1, 1), (1, -1))
                if board[r][c] and (r, c) not in safe and all(guarded(r, c, *a) for a in axes):
                    safe.add((r, c))
                    grown = True
    return [(r, c) in safe for r in range(n) for c in range(n)]


@pytest.mark.parametrize(("n", "games"), [(6, 320), (8, 30)])
def test_every_label_of_10_000_positions_follows_the_rules(n, games):
    got = othello(n).sample(games, 5)
    ids, turn, legals, boards, relative, stables = (v.tolist() for v in got)
    seen = 0
    for g in range(games):
        board = [[0] * n for _ in range(n)]
        m, colour, over = n // 2, 1, False
        board[m - 1][m - 1] = board[m][m] = 2
        board[m - 1][m] = board[m][m - 1] = 1
        mover = 1
        for t in range(n * n - 4):
            if not any(legal(board, n, colour)):
                colour = 3 - colour
            can = legal(board, n, colour)
            assert legals[g][t] == can
            if any(can):
                assert turn[g][t] == colour - 1 and not over
                r, c = divmod(ids[g][t], n)
                flipped = turned(board, n, r, c, colour)
                assert flipped, "an illegal move was played"
                for y, x in [*flipped, (r, c)]:
                    board[y][x] = colour
                mover, colour = colour, 3 - colour
            else:
                over = True
                assert ids[g][t] == n * n and turn[g][t] == -1
            flat = [v for line in board for v in line]
            assert boards[g][t] == flat
            assert stables[g][t] == stable(board, n)
            after = 3 - mover
            if not any(legal(board, n, after)) and any(legal(board, n, mover)):
                after = mover
            assert relative[g][t] == [0 if v == 0 else 1 if v == after else 2 for v in flat]
            seen += 1
    assert seen >= (10_000 if n == 6 else 1_800)


@pytest.mark.parametrize("n", [6, 8])
def test_a_stable_disc_keeps_its_colour(n):
    games = othello(n).sample(1000, 2)
    now, then, held = games.board[:, :-1], games.board[:, 1:], games.stable[:, :-1]
    assert (now[held] == then[held]).all() and (now[held] > 0).all()
    assert games.stable[:, 1:][held].all()
    assert 0.1 < float(games.stable.float().mean()) < 0.9


def test_moves_are_uniform_over_the_legal_ones():
    games = othello().sample(4096, 1)
    first = games.ids[:, 0].bincount(minlength=37)
    assert first.nonzero()[:, 0].tolist() == games.legal[0, 0].nonzero()[:, 0].tolist() and (first > 0).sum() == 4
    assert (first[first > 0] - 1024).abs().max() < 4 * (4096 * 0.25 * 0.75) ** 0.5  # binomial, 4 sigma
    # the rank of the move among the legal ones, scaled to a mean of 0 and a variance of 1
    ask = games.legal.any(-1)
    count = games.legal.sum(-1)[ask].double()
    rank = (games.legal.cumsum(-1) * torch.nn.functional.one_hot(games.ids, 37)[..., :36]).sum(-1)[ask].double() - 1
    z = (rank - (count - 1) / 2)[count > 1] / ((count[count > 1] ** 2 - 1) / 12).sqrt()
    assert abs(float(z.mean())) < 4 / len(z) ** 0.5


def test_the_first_board_by_hand():
    world = othello()
    assert world.truth[1:5, 1:5].tolist() == [[0, 0, 0, 0], [0, 2, 1, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert [world.names[s] for s in world.sample(1).legal[0, 0].nonzero()[:, 0].tolist()] == ["c2", "b3", "e4", "d5"]
    assert world.names[0] == "a1" and world.names[20] == "c4"


class Says(torch.nn.Module):
    """Logits `(37)` at every move, from `say(row, move)`; it knows the games by their moves."""

    def __init__(self, games, say):
        super().__init__()
        self.row, self.say = {tuple(x[:-1]): i for i, x in enumerate(games.ids.tolist())}, say

    def forward(self, input_ids):
        rows = [self.row[tuple(x)] for x in input_ids.tolist()]
        said = [torch.stack([self.say(i, t) for t in range(input_ids.shape[1])]) for i in rows]
        return type("Out", (), {"logits": torch.stack(said)})


def test_the_score_is_the_share_of_games_moves_whose_likeliest_answer_is_legal():
    games, pad = o.WORLD.sample(2048, 3), torch.nn.functional.one_hot(torch.tensor(36), 37).float()
    legal = torch.nn.functional.pad(games.legal.float(), (0, 1))
    square = torch.nn.functional.one_hot(torch.tensor(9), 37).float()
    shares, width, asked = [], 0, 0
    for row in games.legal.tolist():
        ask = [x for x in row[1:] if any(x)]
        shares.append(sum(x[9] for x in ask) / len(ask))
        width, asked = width + sum(map(sum, ask)), asked + len(ask)
    expected = {"rules": 1.0, "one square": sum(shares) / 2048, "pad": 0.0}
    say = {"rules": lambda i, t: legal[i, t + 1], "one square": lambda i, t: square, "pad": lambda i, t: pad}
    for name, value in expected.items():
        (got,) = o.TASKS["othello"].quality(Says(games, say[name]), 3)
        assert got.value == pytest.approx(value, abs=1e-6) and got.n == 2048
        assert got.chance == pytest.approx(width / asked / 36)


def test_the_loss_is_the_cross_entropy_against_uniform_legal_moves():
    task = o.TASKS["othello"]
    batch = task.batch(0, 5)
    assert torch.equal(batch.ids, task.batch(0, 5).ids) and not torch.equal(batch.ids, task.batch(0, 6).ids)
    logits = torch.randn(*batch.ids.shape, 37, generator=torch.Generator().manual_seed(0))
    row = {tuple(x[:-1]): i for i, x in enumerate(batch.ids.tolist())}
    loss = task.loss(Says(batch, lambda i, t: logits[i, t]), batch)
    each = []
    for ids, legal in zip(batch.ids.tolist(), batch.legal.tolist(), strict=True):
        for t in range(31):
            if any(legal[t + 1]):
                logp = logits[row[tuple(ids[:-1])], t].log_softmax(-1)  # of all 37 tokens: <pad> may be said
                each.append(-sum(float(logp[s]) for s in range(36) if legal[t + 1][s]) / sum(legal[t + 1]))
    assert float(loss) == pytest.approx(sum(each) / len(each), rel=1e-5)


@pytest.mark.parametrize("size", [0, 4, 7, 10])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="6 or 8"):
        othello(size)
