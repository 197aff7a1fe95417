"""Plug-ins are known without being imported, and imported for whoever has confirmed them."""

import sys
from pathlib import Path

import pytest

from qmu_edge.errors import ConfigError, UnlearnError
from qmu_edge.machine.versions import GROUPS, versions
from qmu_edge.plugins.registry import called, confirm, installed, plugin, plugins, require_confirmed
from tests.plugins.package import package

POINTS = {f"{kind}:mine": "my_plugins:mine" for kind in GROUPS}


@pytest.fixture(autouse=True)
def nothing_is_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is another user; modules of the test before are gone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)


@pytest.mark.parametrize("kind", GROUPS)
def test_one_of_each_kind_is_found_confirmed_and_loaded(kind: str, tmp_path: Path) -> None:
    site = package(tmp_path / "site", POINTS, "def mine(): return 3\n")
    assert [*installed(kind)] == ["mine"] and str(plugin(kind, "mine")) == f"{kind} mine of my-plugins 0.7"
    assert versions()["my-plugins"] == "0.7"
    with pytest.raises(ConfigError, match=f"not confirmed it.*qmu-edge confirm {kind}:mine"):
        called(kind, "mine")
    assert not (site / "imported").exists()
    confirm(kind, "mine")
    assert not (site / "imported").exists()
    assert called(kind, "mine")[1]() == 3 and (site / "imported").exists()


def test_a_confirmation_is_of_one_entry_point_of_one_package_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "site", POINTS, "def mine(): return 3\n")
    confirm("metric", "mine")
    plugin("metric", "mine").require_confirmed()
    with pytest.raises(ConfigError, match="not confirmed"):
        plugin("observer", "mine").require_confirmed()
    # A package of the same name that lies in a folder come from elsewhere, found before.
    package(tmp_path / "theirs", POINTS, "def mine(): return 4\n")
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"not confirmed|has one of this name"):
        called("metric", "mine")
    assert not (tmp_path / "theirs" / "imported").exists()


def test_another_version_of_a_package_stays_confirmed(tmp_path: Path) -> None:
    site = package(tmp_path / "site", POINTS)
    confirm("metric", "mine")
    (site / "my_plugins-0.7.dist-info").rename(site / "my_plugins-0.8.dist-info")
    about = site / "my_plugins-0.8.dist-info/METADATA"
    about.write_text(about.read_text().replace("0.7", "0.8"))
    plugin("metric", "mine").require_confirmed()
    assert plugin("metric", "mine").version == "0.8"


BAD = {
    "no such": ({"metric:other": "my_plugins:mine"}, "", "no installed package brings it; installed: other"),
    "bad name": ({"metric:a.b": "my_plugins:mine"}, "", "letters, digits and _"),
    "not callable": ({"metric:mine": "my_plugins:mine"}, "mine = 3\n", "leads to int"),
    "missing": ({"metric:mine": "my_plugins:mine"}, "", "metric mine of my-plugins 0.7: AttributeError"),
    "raises": ({"metric:mine": "my_plugins:mine"}, "1 / 0\n", "ZeroDivisionError: division by zero"),
    "exits": ({"metric:mine": "my_plugins:mine"}, "raise SystemExit(0)\n", "SystemExit: 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_plug_in_is_one_error(name: str, tmp_path: Path) -> None:
    points, code, said = BAD[name]
    package(tmp_path / "site", points, code)
    with pytest.raises(ConfigError, match=said):
        confirm("metric", "mine")
        called("metric", "mine")


def test_two_packages_with_one_name_are_told(tmp_path: Path) -> None:
    package(tmp_path / "site", POINTS)
    package(tmp_path / "site", POINTS, name="other-plugins")
    with pytest.raises(ConfigError, match=r"has one of this name, too; remove one"):
        installed("metric")


def test_a_package_that_no_receipt_can_name_is_told_before_any_work(tmp_path: Path) -> None:
    package(tmp_path / "site", POINTS, version="0.7 beta")
    with pytest.raises(ConfigError, match="allowed is one word"):
        installed("metric")


def test_its_errors_are_of_the_asked_kind_and_its_output_does_not_reach_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path / "site", POINTS)
    one = plugin("method", "mine")
    with pytest.raises(UnlearnError, match=r"method mine of my-plugins 0.7: KeyError: 'a'"):
        with one.guarded(UnlearnError):
            print("hello")
            raise KeyError("a")
    assert capsys.readouterr() == ("", "hello\n")
    with pytest.raises(KeyboardInterrupt), one.guarded():
        raise KeyboardInterrupt
    with pytest.raises(MemoryError), one.guarded():
        raise MemoryError


def test_all_that_are_not_installed_or_not_confirmed_are_named_at_once(tmp_path: Path) -> None:
    site = package(tmp_path / "site", POINTS)
    named = [("metric", "mine"), ("observer", "mine"), ("metric", "mine")]
    found = plugins(named)
    assert [(one.kind, one.name) for one in found] == named[:2]
    with pytest.raises(ConfigError) as told:
        require_confirmed(found)
    assert str(told.value) == (
        "metric mine of my-plugins 0.7, observer mine of my-plugins 0.7: these programs would be run, and "
        "you have not confirmed them on this machine: if you trust them, run qmu-edge confirm metric:mine && "
        "qmu-edge confirm observer:mine"
    )
    confirm("metric", "mine")
    with pytest.raises(ConfigError, match=r"^observer mine of my-plugins 0\.7: this .* if you trust it"):
        require_confirmed(found)
    confirm("observer", "mine")
    require_confirmed(found)
    with pytest.raises(ConfigError, match=r"^metric 'a': .*: mine; observer 'b': .* installed: mine$"):
        plugins([("metric", "a"), *named, ("observer", "b")])
    assert not (site / "imported").exists()
