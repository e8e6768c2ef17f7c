"""Spam or ham: passages of the plain-text bodies of SpamAssassin's public mails of 2002 and 2003.

Quoted lines, signatures, e-mail addresses, links, long numbers and mails beyond ASCII are taken out when the corpus is
fetched (once, see workbench.harvest.corpora); it is never committed. A passage is `words` words from anywhere in a mail
(cut at spaces), one of each mail; shorter mails are left out. Labels: `label` (spam or ham), `document` (folder and
number of the mail). The ham is mostly of mailing lists, so topic and layout tell much.
"""

from ...harvest import corpus
from ..prompt import Prompts, made, passages


def spam(n: int = 200, seed: int = 0, words: int = 48) -> Prompts:
    """n mails. Raises ConnectionError when they cannot be fetched, ValueError when there are not n of them."""
    mails = corpus("spam")
    labels = mails.labels
    rows = [
        {"text": text, "label": str(labels.label[i]), "document": str(labels.title[i])}
        for i, text in passages(mails.texts, n, seed, words=words, most=1)
    ]
    return made(globals(), rows, kind="class", target="label")
