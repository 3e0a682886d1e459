"""Tables in the paper's form: the published rows, ours, and what may be compared."""

import pytest

from syncmv4d_jax.metrics import definitions, paper, tables


def evaluation(**facts):
    def row(values):
        return {m: {"value": x, "se": 0.1} for m, x in values.items()}

    rows = {
        "model": row({"rpe": 3.0, "pi": 99.0, "mv_rpe": 8.0, "subject_consistency": 0.912345}),
        "held": row({"rpe": 5.0, "mv_rpe": 9.0, "psnr": None}),
    }
    checks = [{"name": "x", "wanted": ">= 1", "value": 2.0, "se": None, "n": 16, "clusters": 12,
               "passed": True}]  # fmt: skip
    size = {"resolution": [480, 704], "frames": 49, "views": 3, "fps": 8.0}
    return {"scenes": 16, "clusters": 12, "rows": rows, "checks": checks} | size | facts


def grids(text):
    """{title: rows of cells} of the Markdown tables."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("**"):
            title = line.strip("*")
        if line.startswith("|"):
            found.setdefault(title, []).append([c.strip() for c in line.strip("|").split("|")])
    return found


PUBLISHED = """
.9351 .9877 529.4 83.67 | .9562 .4521 33.8 76.78 | .9285 .9601 137.5 82.88
.8828 .9962 182.3 83.34 | .7988 .8628 108.7 79.31
15.2 98.2 .0103 .0152 32.7 39.1 | 17.0 87.3 .0115 .0222 67.3 4.16 | 21.7 71.5 .0134 .0228 81.1 1.56
122.7 75.3 | 462.6 - | 501.3 46.3 | 498.2 33.5 | 529.4 32.7
483.8 - | 503.1 46.3 | 529.4 32.7
"""  # Tables 1 (two lines), 2, 3 and 4


def test_every_number_is_the_published_one():
    rows = [row for line in PUBLISHED.strip().split("\n") for row in line.split("|")]
    wanted = [tuple(None if x == "-" else float(x) for x in row.split()) for row in rows]
    assert [row for table in paper.TABLES for row in table.rows.values()] == wanted


def test_the_paper_s_rows_stand_as_published():
    found = grids(tables.markdown(evaluation()))
    assert found["Table 1: video quality"][-2] == [
        "SV4D 2.0 (paper)", "0.7988", "0.8628", "108.7", "79.31"]  # fmt: skip
    motion = {row[0]: row[1:] for row in found["Table 2: motion"]}
    assert motion["SyncMV4D (paper)"] == ["15.2", "98.2", "0.0103", "0.0152", "32.7", "39.1"]
    assert motion["model"] == ["3 ± 0.1", "99 ± 0.1", "-", "-", "8 ± 0.1", "-"]
    assert [row[0] for row in found["Table 3: components"]][2:] == [
        "model", *paper.TABLES[2].rows, "comparable"]  # fmt: skip
    assert "held" in motion and found["Table 4: motion representation"][3][2] == "-"
    assert "16 scenes of 12 triplets" in tables.markdown(evaluation())
    assert found["Checks"][-1] == ["x", ">= 1", "2", "16", "12", "yes"]


def test_every_column_says_whether_it_may_be_compared_and_why():
    text = tables.markdown(evaluation())
    found = grids(text)
    assert found["Table 1: video quality"][-1] == [
        "comparable", "nearly", "nearly", "no (a)", "no (b)"]  # fmt: skip
    assert found["Table 2: motion"][-1][1:] == [
        "no (a)", "no (a)", "no (b)", "no (c)", "no (d)", "no (d)"]  # fmt: skip
    assert "(c) no formula is published" in text and "frame rate are the paper's" in text
    small = tables.markdown(evaluation(resolution=[64, 96], fps=None))
    assert grids(small)["Table 1: video quality"][-1][1] == "no"
    assert "resolution 64 x 96 instead of 480 x 704, fps unknown instead of 8" in small
    for table in paper.TABLES:
        assert all(len(values) == len(table.columns) for values in table.rows.values())
        for metric in table.columns:
            assert metric in paper.UNKNOWN
            assert metric in definitions.DEFINITIONS or metric in paper.TITLES


def test_latex_has_every_table_with_equal_columns():
    text = tables.latex(evaluation())
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == len(paper.TABLES)
    for block in text.split(r"\begin{tabular}{")[1:]:
        columns = len(block[: block.index("}")])
        lines = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert lines and all(line.count("&") == columns - 1 for line in lines)
        assert not any(c in "".join(lines) for c in "±↓↑→")
    assert r"3 $\pm$ 0.1" in text and "% (a)" in text


def test_an_unknown_metric_is_an_error():
    with pytest.raises(KeyError):
        tables.heading("nothing")
