"""Options of a command: names, values, and one sentence for a word that is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config import options
from etude.errors import UserError

KNOWN: options.Options = {
    "to": ("to", options.path),
    "format": ("formats", options.several("format", "csv", "json")),
    "check": ("check", options.listed),
    "clip": ("clips", options.each),
    "many": ("count", options.whole()),
    "port": ("port", options.whole(1, 10)),
    "input": ("takes", options.one_of("sound", "frames", "both")),
    "page": ("page", options.truth),
    "limit": ("limit", options.positive),
}


def test_names_and_settings_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("to=there.mp3", "a,b.wav"):
        Path(name).touch()
    words = [
        "run",
        "to=x",
        "to=~/y",
        "to=there.mp3",
        "format=json,csv,json",
        "check=a,b.wav",
        "check=c,d",
        "page=False",
    ]
    names, said = options.read_options([*words, "page=False", "clip=p,q", "clip=r", "many=3"], KNOWN)
    assert names == ["run", "to=there.mp3"]  # what is there as a file is no setting
    assert said == {
        "to": Path("~/y").expanduser(), "formats": ["json", "csv"], "check": ["a,b.wav", "c", "d"], "page": False,
        "clips": ["p,q", "r"], "count": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("colour=red", "colour=red: is no file, and none of to=, format=, check=, "),
        ("to=", "to=: says nothing; leave it out, or say what"),
        ("format=csv,xml", "format=csv,xml: there is no format 'xml'; there are csv, json"),
        ("many=0", "many=0: must be a whole number of at least 1"),
        ("many=-1", "many=-1: must be a whole number of at least 1"),
        ("port=11", "port=11: must be a whole number from 1 to 10"),
        ("input=smell", "input=smell: must be sound, frames or both"),
        ("page=yes", "page=yes: must be true or false"),
        ("limit=nan", "limit=nan: must be a number greater than 0"),
    ],
)
def test_what_is_wrong_is_a_sentence(word: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        options.read_options(["run", word], KNOWN, "is no file, and")
    assert str(error.value).startswith(sentence)


def test_word_that_cannot_be_a_path_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    long = "many=" + "9" * 300  # longer than the name of a file may be
    assert options.read_options(["~nosuchuser/run", long], KNOWN) == (["~nosuchuser/run"], {"count": int("9" * 300)})
    assert options.path("~nosuchuser/run") == Path("~nosuchuser/run")
    assert not options.exists("a\0b")


def test_other_words_keep_their_order() -> None:
    words = ["first", "page=true", "second=2", "+many=4", "third"]
    assert options.split_options(words, KNOWN) == (["first", "second=2", "third"], {"page": True, "count": 4})


def test_option_without_value_is_left_to_its_reader_unless_refused() -> None:
    assert options.split_options(["check="], KNOWN) == ([], {"check": [""]})
    with pytest.raises(UserError, match=r"^check=: needs a value$"):
        options.split_options(["check="], KNOWN, "needs a value")


@pytest.mark.parametrize(
    ("words", "asks"), [(["-h"], True), (["run", "--help"], True), (["help", "h"], False), ([], False)]
)
def test_help_is_asked_for_by_two_words(words: list[str], asks: bool) -> None:
    assert options.asks_for_help(words) is asks


def test_pair_needs_an_equals_sign() -> None:
    assert options.split_pair("+optim.lr=a=b") == ("optim.lr", "a=b")
    with pytest.raises(UserError, match="is not of the form name=value"):
        options.split_pair("optim.lr")
