"""Names and options of a command, and error messages for other arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config import options
from etude.errors import UserError

KNOWN: options.Options = {
    "to": ("to", options.path),
    "format": ("formats", options.several_of("format", "csv", "json")),
    "check": ("check", options.comma_separated),
    "clip": ("clips", options.repeatable),
    "many": ("count", options.integer()),
    "port": ("port", options.integer(1, 10)),
    "input": ("takes", options.one_of("sound", "frames", "both")),
    "page": ("page", options.boolean),
    "limit": ("limit", options.positive),
}


def test_names_and_options_are_separated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("to=there.mp3", "a,b.wav"):
        Path(name).touch()
    arguments = [
        "run",
        "to=x",
        "to=~/y",
        "to=there.mp3",
        "format=json,csv,json",
        "check=a,b.wav",
        "check=c,d",
        "page=False",
    ]
    names, values = options.read_options([*arguments, "page=False", "clip=p,q", "clip=r", "many=3"], KNOWN)
    assert names == ["run", "to=there.mp3"]  # the path of an existing file is not an option
    assert values == {
        "to": Path("~/y").expanduser(), "formats": ["json", "csv"], "check": ["a,b.wav", "c", "d"], "page": False,
        "clips": ["p,q", "r"], "count": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("colour=red", "colour=red: is neither a file nor one of to=, format=, check=, "),
        ("to=", "to=: empty value; remove the option or give it a value"),
        ("format=csv,xml", "format=csv,xml: there is no format 'xml'; available: csv, json"),
        ("many=0", "many=0: must be a whole number of at least 1"),
        ("many=-1", "many=-1: must be a whole number of at least 1"),
        ("port=11", "port=11: must be a whole number from 1 to 10"),
        ("input=smell", "input=smell: must be sound, frames or both"),
        ("page=yes", "page=yes: must be true or false"),
        ("limit=nan", "limit=nan: must be a number greater than 0"),
    ],
)
def test_invalid_argument_is_refused_with_message(argument: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        options.read_options(["run", argument], KNOWN, "is neither a file nor")
    assert str(error.value).startswith(message)


def test_argument_that_cannot_be_a_path_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    long = "many=" + "9" * 300  # longer than the name of a file can be
    assert options.read_options(["~nosuchuser/run", long], KNOWN) == (["~nosuchuser/run"], {"count": int("9" * 300)})
    assert options.path("~nosuchuser/run") == Path("~nosuchuser/run")
    assert not options.exists("a\0b")


def test_other_arguments_keep_their_order() -> None:
    arguments = ["first", "page=true", "second=2", "+many=4", "third"]
    assert options.split_options(arguments, KNOWN) == (["first", "second=2", "third"], {"page": True, "count": 4})


def test_option_without_value_is_parsed_by_its_reader_unless_refused() -> None:
    assert options.split_options(["check="], KNOWN) == ([], {"check": [""]})
    with pytest.raises(UserError, match=r"^check=: needs a value$"):
        options.split_options(["check="], KNOWN, "needs a value")


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["-h"], True), (["run", "--help"], True), (["help", "h"], False), ([], False)]
)
def test_help_is_requested_by_two_flags(arguments: list[str], expected: bool) -> None:
    assert options.asks_for_help(arguments) is expected


def test_pair_needs_an_equals_sign() -> None:
    assert options.split_pair("+optim.lr=a=b") == ("optim.lr", "a=b")
    with pytest.raises(UserError, match="is not of the form name=value"):
        options.split_pair("optim.lr")
