import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.word_edits import MAX_WEIGHT, Match, edit_words, find_words

PROMPT = "A dog, barking in rain: the dog's bowl and a dog"
WORDS = st.lists(
    st.sampled_from(["a", "dog", "cat", "barks", "in", "rain", "the", "rain's", "3d"]), min_size=1
)
TEXT = st.text(st.sampled_from("dog cat…. #=-'’_ñ\n3"), max_size=12)


def kept(n):
    return tuple(Match((i,), (i,)) for i in range(n))


def test_words_leave_punctuation_out():
    words = find_words(PROMPT)
    assert [word.text for word in words] == [
        *("A", "dog", "barking", "in", "rain", "the", "dog's", "bowl", "and", "a", "dog")
    ]
    assert [PROMPT[word.start : word.end] for word in words] == [word.text for word in words]


@settings(max_examples=30)
@given(WORDS, st.sampled_from([" ", ", ", " - "]))
def test_without_edits_every_word_stays(words, between):
    prompt = between.join(words)
    edit = edit_words(prompt)
    assert edit.prompt == edit.source == prompt
    assert edit.matches == kept(len(words))
    assert edit.weights == (1.0,) * len(words) and edit.edited_words == ()


def test_a_swap_takes_every_such_word_and_no_part_of_one():
    edit = edit_words(PROMPT, ["DOG=black cat"])
    assert edit.prompt == "A black cat, barking in rain: the dog's bowl and a black cat"
    assert Match((1,), (1, 2)) in edit.matches and Match((10,), (11, 12)) in edit.matches
    assert Match((6,), (7,)) in edit.matches
    assert edit.edited_words == (1, 2, 11, 12)


def test_one_of_several():
    assert edit_words(PROMPT, ["dog#2=cat"]).prompt == PROMPT[:-3] + "cat"


def test_phrases_and_several_swaps():
    edit = edit_words("dog barking in heavy rain", ["dog barking=cat", "heavy=light"])
    assert edit.prompt == "cat in light rain"
    assert edit.matches == (
        Match((0, 1), (0,)),
        Match((2,), (1,)),
        Match((3,), (2,)),
        Match((4,), (3,)),
    )


@settings(max_examples=30)
@given(WORDS, st.sampled_from(["… far away", "loud …", "a … b", "... far away"]))
def test_refining_around_the_prompt_keeps_every_word(words, refine):
    prompt = " ".join(words)
    edit = edit_words(prompt, refine=refine)
    assert edit.prompt == refine.replace("...", "…").replace("…", prompt)
    targets = [match.targets[0] for match in edit.matches]
    after = find_words(edit.prompt)
    assert [after[i].text for i in targets] == words
    assert len(edit.edited_words) == len(after) - len(words)


def test_a_whole_prompt_refines_by_the_words_it_shares():
    edit = edit_words("dog barking in rain", refine="a big Dog barking in heavy rain")
    assert [match.targets for match in edit.matches] == [(2,), (3,), (4,), (6,)]


def test_edits_in_their_order():
    edit = edit_words("dog in rain", ["dog=cat"], "a loud …", ["loud=3", "cat=0.5"])
    assert edit.prompt == "a loud cat in rain"
    assert edit.weights == (1.0, 3.0, 0.5, 1.0, 1.0)
    assert edit.matches == (Match((0,), (2,)), Match((1,), (3,)), Match((2,), (4,)))
    assert edit.edited_words == (0, 1, 2)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"swaps": ["cow=cat"]}, "--swap cow=cat: 'cow' is not in the prompt. Its words: A, dog,"),
        ({"swaps": ["ain=cat"]}, "'ain' is not in the prompt"),
        ({"swaps": ["dog#4=cat"]}, "occurs 2 times"),
        ({"swaps": ["dog#0=cat"]}, "occurs 2 times"),
        ({"swaps": ["rain#2=snow"]}, "occurs once"),
        ({"swaps": ["dog"]}, "cannot be read"),
        ({"swaps": ["dog="]}, "cannot be read"),
        ({"swaps": ["=cat"]}, "names no word"),
        ({"swaps": ["rain=snow", "in rain=today"]}, "change the same word"),
        ({"swaps": ["dog=cat", "dog#1=cow"]}, "change the same word"),
        ({"refine": "… and …"}, "more than one"),
        ({"refine": "loud thunder"}, "shares no word with the prompt. Its words: A, dog"),
        ({"reweights": ["rain"]}, "cannot be read"),
        ({"reweights": ["rain=x"]}, "cannot be read"),
        ({"reweights": ["rain=nan"]}, "not possible"),
        ({"reweights": [f"rain={MAX_WEIGHT + 1}"]}, "not possible"),
        ({"reweights": ["snow=2"]}, "--reweight snow=2: 'snow' is not in the prompt"),
        ({"reweights": ["rain=2", "in rain=3"]}, "has a weight already"),
    ],
)
def test_what_cannot_be_is_told(edits, words):
    with pytest.raises(UsageError) as caught:
        edit_words(PROMPT, **edits)
    assert words in caught.value.message


@settings(max_examples=200)
@given(TEXT, st.lists(TEXT, max_size=2), TEXT, st.lists(TEXT, max_size=2))
def test_any_text_is_read_or_refused(prompt, swaps, refine, reweights):
    try:
        edit = edit_words(prompt, swaps, refine, reweights)
    except UsageError:
        return
    n_source, n_words = len(find_words(edit.source)), len(find_words(edit.prompt))
    sources = [i for match in edit.matches for i in match.sources]
    targets = [i for match in edit.matches for i in match.targets]
    assert len(set(sources)) == len(sources) and set(sources) <= set(range(n_source))
    assert len(set(targets)) == len(targets) and set(targets) <= set(range(n_words))
    assert len(edit.weights) == n_words
