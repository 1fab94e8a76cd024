"""Tests of the command `etude`: help of all commands, unknown names, and options of 0.1."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from etude import __version__
from etude.cli import app, bench, compare, dashboard, demo, explore, export, maps, predict, prepare
from etude.cli import inspect as inspect_command
from etude.config.stored import COMMAND_OPTIONS
from etude.data.from_overrides import PrepareOptions
from etude.demo.server import DemoOptions
from etude.export import export as export_work
from etude.inference import tables
from etude.inference.predict import PredictOptions
from etude.inspection.page import InspectOptions
from etude.loggers.dashboard import DashboardOptions
from etude.reports.comparison import axes
from etude.reports.dataset.page import ExploreOptions
from etude.reports.maps.page import MapOptions
from etude.reports.maps.projection import METHODS

GROUP: Any = typer.main.get_command(app.app)
NAMES = list(GROUP.commands)
DATACLASSES = [
    (prepare.prepare, PrepareOptions),
    (explore.explore, ExploreOptions),
    (predict.predict, PredictOptions),
    (export.export, export_work.ExportOptions),
    (demo.demo, DemoOptions),
    (inspect_command.inspect, InspectOptions),
    (compare.compare, axes.CompareOptions),
    (maps.maps, MapOptions),
    (dashboard.dashboard, DashboardOptions),
]


def test_group_contains_every_command_and_a_script_for_each() -> None:
    assert [
        *("train", "prepare", "explore", "predict", "embed", "export", "demo", "inspect"),
        *("report", "compare", "ensemble", "maps", "cache", "dashboard", "bench"),
    ] == NAMES
    root = Path(__file__).parents[2]
    for name in NAMES:
        script = root / ("train.py" if name == "train" else f"scripts/{name}.py")
        assert script.is_file(), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option_with_its_description(name: str, flag: str, capsys: Any) -> None:
    assert app.main([name, flag]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    if name == "train":
        assert "== Config groups and their options ==" in out
        return
    assert out.startswith(f"Usage: etude {name} ")
    for parameter in GROUP.commands[name].params:
        assert parameter.help, parameter.name
        assert (parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]) in out


def test_help_lists_every_command(capsys: Any) -> None:
    assert app.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in NAMES)
    for status in ("0 done", "1 failed", "2 input", "130 interrupted", "143 terminated"):
        assert status in " ".join(out.split())


def test_version_is_printed(capsys: Any) -> None:
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out == f"etude {__version__}\n"


def test_without_command_the_help_is_printed_as_an_error(capsys: Any) -> None:
    assert app.main([]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("Usage: etude ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian", "trian: there is no such command; did you mean train?"),
        ("comparison", "comparison: there is no such command; did you mean compare?"),
        ("xyz", "xyz: there is no such command; the commands are listed above"),
    ],
)
def test_unknown_command_is_refused_with_help_and_the_nearest_name(name: str, message: str, capsys: Any) -> None:
    assert app.main([name, "outputs"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("Usage: etude ")
    assert error.endswith(f"\n\n{message}\n")


def test_renamed_command_is_refused_with_its_new_name(capsys: Any) -> None:
    assert app.main(["latent", "outputs/run"]) == 2
    assert capsys.readouterr().err == "latent: was renamed; use etude maps\n"


@pytest.mark.parametrize("arguments", [[], ["backbone=lstm", "trainer=ddp"], ["--config-dir=there", "seed=1"]])
def test_process_of_lightning_trains(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(app.train_command, "main", lambda given: calls.append(given) or 3)
    assert app.main(arguments) == 3
    assert calls == [arguments]


@pytest.mark.parametrize(
    "arguments", [["-m", "backbone=lstm,cnn", "--cfg", "job"], ["-cd", "there", "~logger", "a=b c"]]
)
def test_train_receives_arguments_unchanged(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(app.train_command, "main", lambda given: calls.append(given) or 0)
    assert app.main(["train", *arguments]) == 0
    assert calls == [arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "run", "other"], "other: unexpected argument"),
        (["demo", "song.mp3", "--backbone=musicnn"], "song.mp3: unexpected argument beside --backbone musicnn"),
        (["demo"], "Missing argument 'RUN'"),
        (["predict", "run", "song.mp3", "--windw", "3"], "No such option: --windw (Possible options: --window)"),
        (["predict", "run", "song.mp3", "--window", "x"], "Invalid value for '--window': Input should be a valid numb"),
        (["predict", "run", "song.mp3", "--device", "gpu"], "Invalid value for '--device': 'gpu' is not one of 'auto'"),
        (["predict", "run", "song.mp3", "--workers", "0"], "Invalid value for '--workers': Input should be greater th"),
        (["predict", "run", "song.mp3", "--format", "csv,xls"], "Invalid value for '--format': 'xls' is not one of cs"),
        (["predict", "run", "song.mp3", "--format", "csv,"], "Invalid value for '--format': an item of the list is em"),
        (["predict", "run"], "Missing argument 'INPUT'"),
        (["predict"], "Missing argument 'RUN'"),
        (["export", "run", "--push", "model"], "Invalid value for '--push': must be USER/NAME"),
        (["export", "run", "--input", "audio"], "Invalid value for '--input': 'audio' is not one of 'waveform', 'fram"),
        (["demo", "run", "--port", "99999"], "Invalid value for '--port': Input should be less than or equal to 65535"),
        (["inspect", "run", "--crop", "5-2"], "Invalid value for '--crop': '5-2' is neither a length, such as 5, nor"),
        (["inspect"], "Missing argument 'RUN'"),
        (["report"], "Missing argument 'RUN'"),
        (["compare", "runs", "--split", "train"], "Invalid value for '--split': 'train' is not one of 'test', 'val'"),
        (["compare", "runs", "--where", "backbone"], "Invalid value for '--where': 'backbone' is not of the form AXIS"),
        (["compare", "runs", "--layout", "4"], "Invalid value for '--layout': '4' is not one of 'runs', 'classes', "),
        (["maps", "runs", "--methods", "pca,lda"], "Invalid value for '--methods': 'lda' is not one of pca, tsne, "),
        (["maps", "runs", "--dims", "4"], "Invalid value for '--dims': '4' is not one of 2, 3"),
        (["maps", "runs", "--seed", "-1"], "Invalid value for '--seed': Input should be greater than or equal to 0"),
        (["explore", "data=demo", "--count", "25"], "Invalid value for '--count': Input should be less than or equal "),
        (["bench", "speed"], "Invalid value for 'NAME': 'speed' is not one of audio, data, "),
        (["prepare"], "Missing argument 'OVERRIDE'"),
    ],
)  # fmt: skip
def test_invalid_argument_is_one_clear_sentence(arguments: list[str], message: str, tmp_path: Path, capsys: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert app.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(message)
    assert error.endswith(f"; etude {arguments[0]} --help lists the arguments\n")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "run", "song.mp3", "to=there"], "to=there: options of etude predict have dashes; use --out there"),
        (["predict", "run", "song.mp3", "batch=4"],
         "batch=4: options of etude predict have dashes; use --batch-size 4"),
        (["predict", "run", "song.mp3", "page=false"],
         "page=false: options of etude predict have dashes; use --no-page"),
        (["demo", "run", "browser=false"], "browser=false: options of etude demo have dashes; use --no-browser"),
        (["export", "run", "private=true"], "private=true: options of etude export have dashes; use --private"),
        (["compare", "runs", "part=val"], "part=val: options of etude compare have dashes; use --split val"),
        (["compare", "runs", "backbone=lstm,cnn"],
         "backbone=lstm,cnn: options of etude compare have dashes; use --where backbone=lstm,cnn"),
        (["maps", "runs", "methods=pca"], "methods=pca: options of etude maps have dashes; use --methods pca"),
        (["inspect", "run", "clip=a"], "clip=a: options of etude inspect have dashes; use --clip a"),
        (["dashboard", "show=true"], "show=true: options of etude dashboard have dashes; use --dry-run"),
        (["prepare", "data=demo", "verify=true"], "verify=true: options of etude prepare have dashes; use --verify"),
        (["explore", "data=demo", "count=2"], "count=2: options of etude explore have dashes; use --count 2"),
        (["prepare", "source=folder", "path=music"],
         "source=folder: was renamed; use data=folder\n"
         "path=music: is not an override for data or feature; an option of the source is data.source.path=music"),
    ],
)  # fmt: skip
def test_option_of_old_form_is_refused_with_its_new_form(arguments: list[str], message: str, capsys: Any) -> None:
    assert app.main(arguments) == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", message + "\n")


def test_every_renamed_option_exists() -> None:
    options = {name for command in GROUP.commands.values() for parameter in command.params for name in parameter.opts}
    assert {f"--{name}" for name in COMMAND_OPTIONS.values()} <= options


@pytest.mark.parametrize(("function", "dataclass"), DATACLASSES, ids=lambda item: item.__name__)
def test_defaults_equal_those_of_the_options_for_python(function: Any, dataclass: Any) -> None:
    parameters = inspect.signature(function).parameters
    compared = set()
    for option in dataclasses.fields(dataclass):
        if option.name not in parameters or parameters[option.name].default is inspect.Parameter.empty:
            continue
        if option.name == "where":  # a mapping in Python
            continue
        missing = option.default is dataclasses.MISSING
        expected = (
            option.default_factory()
            if missing and option.default_factory is not dataclasses.MISSING
            else option.default
        )
        if expected is dataclasses.MISSING:
            continue
        given = parameters[option.name].default
        if option.name == "dims":
            given = tuple(map(int, given))
        assert (tuple(given) if isinstance(given, list) else given) == (
            tuple(expected) if isinstance(expected, list) else expected
        ), option.name
        compared.add(option.name)
    assert len(compared) >= 3, "most options have the same name in both"


def test_choices_equal_those_of_the_work() -> None:
    assert predict.FORMATS == tables.FORMATS
    assert compare.FORMATS == axes.FORMATS
    assert tuple(METHODS) == maps.METHODS
    layouts = next(p for p in GROUP.commands["compare"].params if p.name == "layout").type_descriptor.choices
    assert tuple(layouts) == tuple(axes.LAYOUTS) == axes.LAYOUT_NAMES
    assert set(bench.BENCHMARKS) == {name for name in bench.BENCHMARKS if callable(bench._benchmark(name))}


def test_every_parameter_has_a_description() -> None:
    for name, command in GROUP.commands.items():
        if name == "train":
            continue
        assert command.help and command.epilog and command.short_help, name
        assert all(parameter.help for parameter in command.params), name
