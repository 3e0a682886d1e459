"""A workbook of captions as TASTE-Rob has one, written by the format's rules."""

import zipfile

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
BOOK = """<workbook {} xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">
<sheets><sheet name="Single-Hand" r:id="a"/><sheet name="Double-Hand" r:id="b"/></sheets></workbook>
"""
RELS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="a" Target="worksheets/one.xml"/><Relationship Id="b" Target="/xl/two.xml"/>
</Relationships>"""
ONE = """<worksheet {}><sheetData>
<row><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c><c r="D1" t="s"><v>2</v></c></row>
<row><c r="A2"><v>17.0</v></c><c r="C2" t="s"><v>3</v></c><c r="D2" t="s"><v>4</v></c></row>
<row><c r="A3"><v>18</v></c><c r="C3" t="s"><v>3</v></c>
<c r="D3" t="inlineStr"><is><t>Put it </t><t>down.</t></is></c></row>
<row><c r="A4"><v>19</v></c></row></sheetData></worksheet>"""
TWO = """<worksheet {}><sheetData><row><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c>
<c r="C1" t="s"><v>2</v></c></row></sheetData></worksheet>"""
STRINGS = """<sst {}><si><t>ID</t></si><si><t>Scene</t></si><si><t>Caption</t></si>
<si><t>Kitchen</t></si><si><r><t>Pick up </t></r><r><t>the cup.</t></r></si></sst>"""
FILES = {
    "xl/workbook.xml": BOOK, "xl/_rels/workbook.xml.rels": RELS, "xl/worksheets/one.xml": ONE,
    "xl/two.xml": TWO, "xl/sharedStrings.xml": STRINGS,
}  # fmt: skip


def write(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, text in (FILES | changes).items():
            file.writestr(name, text.replace("{}", MAIN))
