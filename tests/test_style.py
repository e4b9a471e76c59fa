import numpy as np
import pytest
from matplotlib.image import imread

from pqlib.study.plots import style


def good():
    figure, ((axes,),) = style.new()
    axes.plot([1, 2, 3], [1, 4, 9])
    axes.set(xlabel="x, units", ylabel="y, units", title="Grows")
    return figure, axes


def test_a_good_figure_has_no_problems():
    assert style.problems(good()[0]) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: (a.text(2, 4, "one label"), a.text(2.02, 4, "another")), "overlap"),
        (lambda a: a.figure.text(0.97, 0.5, "beyond the edge"), "cut off"),
        (lambda a: a.set(xlabel="", ylabel=""), "no axis label"),
        (lambda a: a.clear(), "empty"),
        (lambda a: a.set_xticks(np.linspace(1, 3, 60), ["a long label"] * 60), "overlap"),
    ],
)
def test_problems_are_found(spoil, words):
    figure, axes = good()
    spoil(axes)
    assert words in "; ".join(style.problems(figure))


def test_a_blank_figure_is_found():
    figure, ((axes,),) = style.new()
    axes.set_axis_off()
    assert style.problems(figure) == ["the figure is blank"]


def test_saved_figures_are_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        style.show(good()[0], tmp_path / folder, "01_grows")
    for kind in ("png", "svg"):
        first, second = ((tmp_path / f / "figures" / f"01_grows.{kind}").read_bytes() for f in "ab")
        assert first == second
    assert imread(tmp_path / "a" / "figures" / "01_grows.png").std() > 0


def test_strictness_raises_and_writes_nothing(tmp_path, monkeypatch, capsys):
    figure, axes = good()
    axes.text(2, 4, "one label")
    axes.text(2.02, 4, "another")
    monkeypatch.setenv(style.STRICT_VARIABLE, "1")
    with pytest.raises(ValueError, match="01_bad.*overlap"):
        style.show(figure, tmp_path, "01_bad")
    assert not (tmp_path / "figures").exists()
    monkeypatch.delenv(style.STRICT_VARIABLE)
    style.show(figure, tmp_path, "01_bad")
    assert "overlap" in capsys.readouterr().out
    assert (tmp_path / "figures" / "01_bad.png").exists()
