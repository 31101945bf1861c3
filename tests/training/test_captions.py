import pytest

from auffusion_cli.training import captions


@pytest.mark.parametrize(
    ("background", "is_place"),
    [
        ("howling wind", True),
        ("a cheering crowd", True),
        ("rain falling", False),
        ("the roar of traffic", False),
        ("crowd", False),
        ("a river", False),
    ],
)
def test_only_weather_and_places_are_something_to_be_in(background, is_place):
    assert bool(captions.PLACES.search(background)) == is_place


@pytest.mark.parametrize(
    ("sentence", "joined"),
    [
        ("A dog barks. ", "a dog barks"),
        ("TV noise!", "TV noise"),
        ("I'm talking", "I'm talking"),
        ("Éclairs sizzle", "éclairs sizzle"),
        ("", ""),
    ],
)
def test_joined_sentences_lose_their_capital(sentence, joined):
    assert captions._joined(sentence) == joined
