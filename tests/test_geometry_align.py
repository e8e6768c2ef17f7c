"""Rows of two tokenizers meet at word ends: by hand, on planted tokenizers, and on the two real ones that ship."""

from types import SimpleNamespace

import pytest
import torch

import workbench as wb
from workbench.geometry.align import align, characters, paired, words
from workbench.testbeds import subject


def planted(name, pieces, offsets=True):
    """A subject whose tokenizer gives the spans that `pieces(text)` says."""

    def tokenizer(text, return_offsets_mapping=False):
        if return_offsets_mapping and not offsets:
            raise NotImplementedError("a slow tokenizer")
        return {"offset_mapping": pieces(text)}

    return SimpleNamespace(name=name, tokenizer=tokenizer)


def by_character(text):
    return [(i, i + 1) for i in range(len(text))]


def by_space(text):
    """Spaces go before their word; a special token stands at either end."""
    found, begin = [(0, 0)], 0
    for i in range(1, len(text) + 1):
        if i == len(text) or text[i] == " ":
            found.append((begin, i))
            begin = i
    return [*found, (0, 0)]


def said(text):
    return [text[a:b] for a, b in words(text)]


def test_words_are_runs_of_letters_or_of_signs():
    assert said("Hello,  it's 3.5\n\tok!!") == ["Hello", ",", "it", "'", "s", "3", ".", "5", "ok", "!!"]
    assert said("café cafe\u0301 नमस्ते 日本語") == ["café", "cafe\u0301", "नमस्ते", "日本語"]
    assert said("") == said(" \n\u00a0\u200b") == []


def test_an_emoji_of_several_characters_is_one_word_and_marks_of_direction_are_none():
    family = "👩\u200d👩\u200d👧"
    assert said(f"a{family} ❤\ufe0f👍🏽") == ["a", family, "❤\ufe0f👍🏽"]
    assert said("\u200fשלום\u200f עולם") == ["שלום", "עולם"]
    assert said("می\u200cخواهم") == ["می\u200cخواهم"]


def test_pairs_by_hand():
    found = align(planted("a", by_character), planted("b", by_space), ["ab cd", "x  y"])
    assert found.text.tolist() == [0, 0, 1, 1]
    assert found.a.tolist() == [1, 4, 0, 3]
    assert found.b.tolist() == [1, 2, 1, 3]
    assert found.word == ["ab", "cd", "x", "y"]
    assert (found.words, found.lost_a, found.lost_b) == (4, 0, 0)


def test_words_that_end_inside_a_token_are_counted_and_not_paired():
    # by_space cuts "it's" as one token: "it" and "'" end inside it
    found = align(planted("a", by_character), planted("b", by_space), ["it's on"])
    assert found.word == ["s", "on"]
    assert (found.words, found.lost_a, found.lost_b) == (4, 0, 2)
    assert found.caption == "2 of 4 words (50%) end a token of both; 0 end no token of A, 2 none of B."


def test_only_the_last_of_a_characters_bytes_ends_it():
    text = "é x"
    spans = [(0, 1), (0, 1), (1, 3)]  # two bytes of é, then " x"
    assert paired([text], [spans], [by_character(text)]).a.tolist() == [1, 2]


def test_a_byte_that_runs_into_the_next_character_ends_no_word():
    text = "é!"
    spans = [(0, 1), (0, 2)]  # the second token holds the last byte of é and the sign
    found = paired([text], [spans], [by_character(text)])
    assert found.word == ["!"]
    assert found.lost_a == 1


def test_rows_cut_short_lose_the_words_beyond_and_half_characters():
    text = "ab é"
    bytes_of = [(0, 2), (2, 4), (3, 4)]
    assert paired([text], [bytes_of], [by_character(text)]).word == ["ab", "é"]
    assert paired([text], [bytes_of], [by_character(text)], length=2).word == ["ab"]
    found = paired([text], [bytes_of], [by_character(text)], length=1)
    assert (found.word, found.lost_a, found.lost_b) == ([], 1, 2)


def test_byte_spans_become_character_spans():
    text = "aé👍b"  # 1, 2, 4 and 1 bytes
    assert characters(text, [(0, 1), (1, 3), (3, 7), (7, 8)]) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert characters(text, [(1, 2), (2, 3), (0, 0), (0, 3)]) == [(1, 2), (1, 2), (0, 0), (0, 2)]


def test_rows_finds_the_pairs_that_both_hold():
    found = align(planted("a", by_character), planted("b", by_space), ["ab cd", "ef gh"])
    a = torch.tensor([0, 0, 1, 1]), torch.tensor([4, 1, 1, 0])  # (1, 4) was left out
    b = torch.tensor([1, 1, 0]), torch.tensor([2, 1, 2])  # (0, 1) was left out
    pair, left, right = found.rows(a, b)
    assert [found.word[i] for i in pair] == ["cd", "ef"]
    assert left.tolist() == [0, 2]
    assert right.tolist() == [2, 1]
    nothing = torch.zeros(0, dtype=torch.int64)
    assert all(len(part) == 0 for part in found.rows(a, (nothing, nothing)))


def test_with_one_tokenizer_a_pair_is_a_token_with_itself():
    model = subject("tiny_text_gelu")
    texts = ["The dog's house, 12.5 miles away!", "naïve 🙂 שלום"]
    found = align(model, model, texts)
    assert torch.equal(found.a, found.b)
    assert found.lost_a == found.lost_b
    tokens = model.tokenize(texts)
    for text, pos, word in zip(found.text.tolist(), found.a.tolist(), found.word, strict=True):
        assert model.tokenizer.decode(tokens.ids[text, : pos + 1].tolist()).endswith(word)


TEXT = "Hello there, it's a naïve DOG. 🙂👩\u200d👩\u200d👧 שלום עולם  two  spaces\n\tTab 日本語 café cafe\u0301"


def test_smollm2_and_minilm_meet_at_the_words_they_share():
    a, b = wb.Subject("smollm2-135m"), wb.Subject("minilm")
    found = align(a, b, ["plain", TEXT])
    whole = "plain Hello there , it s a naïve DOG . 🙂👩\u200d👩\u200d👧 שלום עולם two spaces Tab 日本語 café"
    # "'" ends inside SmolLM2's "'s"; MiniLM drops the last accent, so the last word ends no token of it
    assert found.word == whole.split()
    assert (found.words, found.lost_a, found.lost_b) == (len(found.word) + 2, 1, 1)
    left, right = a.tokenize(["plain", TEXT]).ids, b.tokenize(["plain", TEXT]).ids
    for text, i, j, word in zip(*(column.tolist() for column in found[:3]), found.word, strict=True):
        assert a.tokenizer.decode(left[text, : i + 1].tolist()).endswith(word)
        last = b.tokenizer.convert_ids_to_tokens(right[text, j].item()).removeprefix("##")
        assert last == "[UNK]" or word.lower().replace("ï", "i").replace("é", "e").endswith(last)
    cut = align(a, b, ["plain", TEXT], length=8)
    assert cut.word == ["plain", "Hello", "there", ",", "it", "s", "a"]


A = planted("a", by_character)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: align(A, A, "one text"), "align wants a list of one or more texts, got 'one text'"),
        (lambda: align(A, A, []), "align wants a list of one or more texts, got"),
        (lambda: align(A, SimpleNamespace(name="b", tokenizer=None), ["x"]), "b has no tokenizer"),
        (lambda: align(A, planted("slow", by_space, False), ["x"]), "the tokenizer of slow does not say where"),
        (lambda: align(A, A, ["x"], length=0), "length must be 1 or more tokens, got 0"),
        (lambda: paired(["x"], [[(0, 1)]], []), "one list of spans for each text and side"),
        (
            lambda: paired(["é"], [[(0, 2)]], [[(0, 1)]]),
            "ends beyond the text's 1 characters: if its spans count bytes",
        ),
        (lambda: characters("é", [(0, 3)]), r"within the text's 2 bytes, got \(0, 3\)"),
        (
            lambda: align(A, A, ["ab"]).rows((torch.zeros(2).long(),) * 2, (torch.zeros(1).long(),) * 2),
            "rows of a hold a",
        ),
    ],
)
def test_bad_input_is_refused_in_a_line(call, says):
    with pytest.raises(ValueError, match=says):
        call()
