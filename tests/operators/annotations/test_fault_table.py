"""The table of faults names real codes and mends, and every code that a parser can give."""

import re
from pathlib import Path

from operators.annotations import LAYOUTS
from schemas.errors import RejectCode
from schemas.record import Repair

FOLDER = Path(__file__).resolve().parents[3] / "operators/annotations"


def read_table():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = text.split("## Faults")[1].split("\n|")[3:]
    return [row.rstrip().rstrip("|").split(" | ")[-1] for row in rows]


def test_the_table_names_what_the_code_can_give():
    named = {word for cell in read_table() for word in re.findall(r"`([a-z_]+)`", cell)}
    assert len(named) > 15
    source = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    codes = {RejectCode[name].value for name in re.findall(r"RejectCode\.([A-Z_]+)", source)}
    mends = {Repair[name].value for name in re.findall(r"Repair\.([A-Z_]+)", source)}
    assert named == codes | mends


def test_the_formats_are_listed():
    text = (FOLDER / "README.md").read_text(encoding="utf-8").split("| module |")[0]
    assert {name for name in LAYOUTS if f"`{name}`" in text} == set(LAYOUTS)
