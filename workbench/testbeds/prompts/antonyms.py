"""Opposites: `The opposite of "hot" is "` -> `cold`, not `hot` nor any other word of the table.

Uniform over 3 templates and 45 pairs in both directions; wrong are all other 89 words. All are one token of SmolLM2
after a quotation mark. Labels: `word`, `answer`, `template`.
Source: Todd et al. 2024, arXiv 2310.15213, among others; the pairs are ours.
Measured on SmolLM2-135M (docs/measurements.md): 64 % of 200 answers beat all 89 others.
"""

from ..prompt import Prompts, made, picks

PAIRS = (
    "hot cold/big small/up down/good bad/day night/young old/black white/rich poor/fast slow/hard soft/high low/"
    "long short/strong weak/light dark/open closed/right left/true false/male female/early late/first last/near far/"
    "full empty/in out/start stop/buy sell/give take/push pull/rise fall/always never/wet dry/thick thin/"
    "positive negative/public private/inside outside/above below/before after/north south/east west/life death/"
    "war peace/success failure/front back/past future/internal external/minimum maximum"
)
TEMPLATES = ('The opposite of "{}" is "', 'The antonym of "{}" is "', '"{}" is the opposite of "')


def antonyms(n: int = 100, seed: int = 0) -> Prompts:
    """n words to turn round. Raises ValueError when there are not n different ones."""
    pairs = [tuple(pair.split()) for pair in PAIRS.split("/")]
    pairs += [(b, a) for a, b in pairs]
    every = sorted({word for pair in pairs for word in pair})
    rows = []
    for t, p in picks(n, (len(TEMPLATES), len(pairs)), seed):
        word, answer = pairs[p]
        wrong = [other for other in every if other != answer]
        known = {"word": word, "answer": answer, "template": t}
        rows.append({"text": TEMPLATES[t].format(word), "right": [answer], "wrong": wrong, **known})
    return made(globals(), rows)
