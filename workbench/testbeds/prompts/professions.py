"""Gender and profession: `Mary works as a carpenter. At the end of the day,` -> ` she`, not ` he`.

The name decides; the profession may pull the other way (`stereotype`: the gender that held most such jobs in the
United States, as listed by WinoBias). Uniform over 3 templates, 88 names (44 of either gender) and 40 professions (20
of either stereotype), all independent. Labels: `name`, `gender`, `profession`, `stereotype`, `template`. To make gender
and profession inseparable, as in Marks et al. 2024 (arXiv 2403.19647), keep the rows where gender equals stereotype.
Source: professions and their stereotypes from Zhao et al. 2018, arXiv 1804.06876 (WinoBias), three of them
in plainer words; templates are ours.
Measured on SmolLM2-135M (docs/measurements.md): the pronoun agrees with the name in 76 % of 100 prompts only (chance
50 %): use the prompts that it gets right, or say so.
"""

from ..prompt import Prompts, made, picks
from ._words import FEMALE, MALE

PROFESSIONS = {
    "male": [
        "driver", "supervisor", "janitor", "cook", "mover", "laborer", "chief", "developer", "carpenter", "manager",
        "lawyer", "farmer", "guard", "physician", "mechanic", "analyst", "sheriff", "CEO", "salesperson", "builder",
    ],
    "female": [
        "attendant", "cashier", "teacher", "nurse", "assistant", "secretary", "auditor", "cleaner", "receptionist",
        "clerk", "counselor", "designer", "hairdresser", "writer", "housekeeper", "baker", "accountant", "editor",
        "librarian", "tailor",
    ],
}  # fmt: skip
TEMPLATES = (
    "{name} works as {a} {profession}. At the end of the day,",
    "{name} is {a} {profession}. In the morning, before work,",
    "{name} has been {a} {profession} for years, and last week",
)


def professions(n: int = 100, seed: int = 0) -> Prompts:
    """n people at work. Raises ValueError when there are not n different ones."""
    names = [(name, "female") for name in FEMALE] + [(name, "male") for name in MALE]
    jobs = [(job, stereotype) for stereotype, group in PROFESSIONS.items() for job in group]
    rows = []
    for t, who, what in picks(n, (len(TEMPLATES), len(names), len(jobs)), seed):
        (name, gender), (job, stereotype) = names[who], jobs[what]
        right, wrong = (" she", " he") if gender == "female" else (" he", " she")
        known = {"name": name, "gender": gender, "profession": job, "stereotype": stereotype, "template": t}
        text = TEMPLATES[t].format(name=name, a="an" if job[0] in "aeiou" else "a", profession=job)
        rows.append({"text": text, "right": [right], "wrong": [wrong], **known})
    return made(globals(), rows)
