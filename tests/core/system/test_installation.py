"""Messages give the command that adds an extra to this installation, whichever way it was made."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import retort
from retort.__main__ import main
from retort.core.system.installation import DISTRIBUTION, EXTRA_OF, PACKAGES, install_command, version

PROJECT = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which pip records where a distribution came from, of an installation before all others."""
    folder = tmp_path / "site" / "retort_ml-9.9.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / "direct_url.json"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "retort-ml[serve]"'),
        ("{", 'pip install "retort-ml[serve]"'),
        ("[]", 'pip install "retort-ml[serve]"'),
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, 'pip install -e "/a b[serve]"'),
        ({"url": "file:///a", "dir_info": {}}, 'pip install "/a[serve]"'),
        ({"url": "file:///w.whl", "archive_info": {}}, 'pip install "retort-ml[serve] @ file:///w.whl"'),
        (
            {"url": "https://h/r.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            'pip install "retort-ml[serve] @ git+https://h/r.git@c0ffee"',
        ),
    ],
)
def test_the_command_fits_the_installation(installed: Path, origin: object, command: str) -> None:
    """A checkout, a file and a repository are named by their address, everything else by the distribution."""
    if origin is not None:
        installed.write_text(origin if isinstance(origin, str) else json.dumps(origin))
    assert install_command("serve") == command


def test_the_current_folder_is_a_dot(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the root of a checkout the command is the one of the README."""
    installed.write_text(json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.chdir(tmp_path)
    assert install_command("cpu") == 'pip install -e ".[cpu]"'


def test_the_version_is_that_of_the_distribution(installed: Path) -> None:
    """The name of the distribution is the one in pyproject.toml, and both faces of the version read it."""
    assert installed.parent.is_dir()
    assert PROJECT["name"] == DISTRIBUTION
    assert version() == retort.__version__ == "9.9"


def test_every_extra_installs_its_modules() -> None:
    """The extra that is named for a missing module declares its package."""
    for module, extra in EXTRA_OF.items():
        lines = [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
        nested = [Requirement(more) for line in lines for key in line.extras for more in _extra(line.name, key)]
        assert PACKAGES.get(module, module) in {line.name for line in (*lines, *nested)}


def _extra(name: str, extra: str) -> list[str]:
    return PROJECT["optional-dependencies"][extra] if name == DISTRIBUTION else []


def test_a_missing_extra_is_one_sentence(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that needs a package of an extra names the package and the command that installs it."""
    assert not installed.exists()
    monkeypatch.setitem(sys.modules, "sklearn", None)

    def fail() -> None:
        import sklearn  # noqa: F401

    monkeypatch.setattr("retort.__main__._app", lambda command: lambda *given, **how: fail())
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 7
    assert capsys.readouterr().err == (
        'retort: this command needs the package `sklearn`\n  → pip install "retort-ml[cpu]"\n'
    )
