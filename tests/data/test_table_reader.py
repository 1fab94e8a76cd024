"""Tests of readers of table files."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from etude.data import table_reader
from etude.data.table_reader import read_table
from etude.errors import DataError


def save(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('path,title,genre\na.wav,x,rock\nb.wav,"Heroes,rock\nc.wav,"Low",jazz\nd.wav,y,jazz\n', 3),
        ('path,title,genre\na.wav,"Heroes,rock\nb.wav,"Low,rock\nc.wav,z,jazz\n', 2),
        ('path,title,genre\na.wav,"Heroes,rock\nb.wav,Remix 12",jazz\nc.wav,z,jazz\n', 2),
        ('path,genre\na.wav,rock\nb.wav,"rock\n', 3),
        ('path,genre\na.wav,rock\nb.wav,"rock', 3),
        ('"path,genre\na.wav,rock\n', 1),
    ],
)
def test_unclosed_quote_is_refused_with_its_row(tmp_path: Path, text: str, row: int) -> None:
    with pytest.raises(DataError, match=rf"t\.csv, row {row} \(line {row}\): the quote at '\"[HLrp]"):
        read_table(save(tmp_path, text))


def test_line_of_an_unbalanced_quote_is_counted_after_cells_with_line_breaks(tmp_path: Path) -> None:
    text = 'path,note\na.wav,"one\ntwo\nthree"\nb.wav,"open\n'
    with pytest.raises(DataError, match=r"row 3 \(line 5\)"):
        read_table(save(tmp_path, text))


def test_quotes_that_are_balanced_or_inside_a_cell_are_read(tmp_path: Path) -> None:
    text = 'path,note\na.wav,"loud\nsoft, slow"\nb.wav,12" remix\nc.wav,"""Heroes"""\n"d.wav" ,e\n'
    columns, _ = read_table(save(tmp_path, text))
    assert columns["note"] == ["loud\nsoft, slow", '12" remix', '"Heroes"', "e"]
    assert len(columns["path"]) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path;genre\na.wav;x\n", "its cells are separated by ';', expected ','; save it as 'CSV UTF-8'"),
        ("path\tgenre\na.wav\tx\n", r"its cells are separated by '\\t', expected ','"),
        ("sep=;\npath;genre\na.wav;x\n", "row 1: 'sep=;' is an instruction for Excel; delete this line"),
        ("path,genre\na.wav,x\n".encode("utf-16"), "because it is UTF-16; save it as 'CSV UTF-8'"),
        ("path,genre\na.wav,x\n".encode("utf-16-le"), "it is a binary file; save it as 'CSV UTF-8'"),
        ("path,genre\na.wav,Café\n".encode("cp1252"), r"line 2 is not UTF-8 \(byte 0xe9, perhaps Windows-1252\)"),
        (b"PK\x03\x04...", "it is an Excel workbook; save it"),
    ],
)
def test_other_file_format_is_refused_with_hint(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(save(tmp_path, content))


def test_tab_separated_file_with_commas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"separated by ',', expected '\\t'"):
        read_table(save(tmp_path, "path,genre\na.wav,x\n", "t.tsv"))


def test_table_of_one_column_is_read(tmp_path: Path) -> None:
    assert read_table(save(tmp_path, "path\na;b.wav\nc.wav\n"))[0] == {"path": ["a;b.wav", "c.wav"]}


def test_workbook_without_openpyxl_gives_error_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_reader, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"t\.xlsx: \.xlsx needs openpyxl: pip install 'etude\[xlsx\]', or save it as"):
        read_table(save(tmp_path, b"", "t.xlsx"))


def test_first_sheet_of_a_workbook_is_read_as_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openpyxl", reason="the extra xlsx is not installed")
    table = pd.DataFrame({"path": ["a.wav", "b.wav"], "n": [1, None], "x": [0.5, 1], "genre": ["NA", None]})
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        table.to_excel(book, sheet_name="clips", index=False)
        table.to_excel(book, sheet_name="notes", index=False)
    columns, locations = read_table(tmp_path / "t.xlsx")
    assert columns == {"path": ["a.wav", "b.wav"], "n": ["1", ""], "x": ["0.5", "1"], "genre": ["NA", ""]}
    assert locations[1].endswith("t.xlsx, row 3")
    assert "the first sheet, clips, is read; other sheets are skipped: notes" in caplog.text
    with pytest.raises(DataError, match="cannot be read as a workbook"):
        read_table(save(tmp_path, b"no workbook", "broken.xlsx"))


def test_column_without_a_name_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(read_table(save(tmp_path, ",path\n0,a.wav\n"))[0]) == ["path"]
    assert "column 1 has no name and is skipped" in caplog.text
