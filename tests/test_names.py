import pytest

from s2rm.names import apart, for_csv, for_figure, for_netcdf, one_line


def test_one_line():
    assert one_line("a\x1b[2J\n b\t\u202ec") == "a [2J b c"
    assert one_line("abcdefgh", 6) == "abc..."


def test_figures_typeset_no_formula():
    is_math_text = pytest.importorskip("matplotlib.cbook").is_math_text
    assert is_math_text("$a_$")
    assert not is_math_text(for_figure("$a_$"))


def test_cells_of_csv():
    assert [for_csv(text) for text in ("=a", "@a", "-a", "-1.5 3", "a=")] == ["'=a", "'@a", "'-a", "-1.5 3", "a="]


def test_names_in_netcdf_stay_apart():
    plain = for_netcdf(["a_b", "a/b", "a//b", "a__b", "c\n", "/", "y (m)"])
    assert plain == {
        "a_b": "a_b",
        "a/b": "a_b_",
        "a//b": "a__b_",
        "a__b": "a__b",
        "c\n": "c",
        "/": "_",
        "y (m)": "y_(m)",
    }


def test_apart():
    assert apart("time", {"time", "time_"}) == "time__"
