"""`make setup` after whatever happened to .venv, with a Python that only notes what it was asked to install."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Stands in for Python 3.11, `venv` and pip: pip is there where its file is.
PYTHON = """#!/bin/sh
echo "$*" >> "$NOTES"
case "$1 $2" in
"-m venv")
    for last; do :; done
    rm -rf "$last"
    mkdir -p "$last/bin"
    cp "$0" "$last/bin/python"
    test ! -e "$NOTES.nopip" || exit 1
    echo "#!$(cd "$last" && pwd -P)/bin/python" > "$last/bin/pip" ;;
"-m pip") test -e "$(dirname "$0")/pip" && test ! -e "$NOTES.offline" ;;
"-c import pip"*) test -e "$(dirname "$0")/pip" ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


class Checkout:
    """A folder with the Makefile, in which ``make setup`` takes no time."""

    def __init__(self, root: Path):
        self.root, self.notes, self.python = root / "a checkout", root / "notes", root / "python"
        self.root.mkdir()
        shutil.copy(ROOT / "Makefile", self.root)
        for name in ("pyproject.toml", "constraints.txt"):
            (self.root / name).touch()
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def setup(self, target: str = "setup") -> tuple[int, list[str]]:
        """Runs ``make``; its exit status, and what Python was asked to do: venv, install."""
        self.notes.unlink(missing_ok=True)
        done = subprocess.run(
            ["make", target, f"PYTHON={self.python}"],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "NOTES": str(self.notes)},
            capture_output=True,
            text=True,
        )
        notes = self.notes.read_text().splitlines() if self.notes.exists() else []
        asked = [words.split()[1] if words.startswith("-m venv") else words.split()[2] for words in notes]
        return done.returncode, [word for word in asked if word in ("venv", "install")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    assert made.setup() == (0, ["venv", "install"])
    assert made.setup() == (0, [])
    return made


def without_pip(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin/pip").unlink()
    (checkout.root / ".venv/.installed").unlink()


def without_pip_but_installed(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin/pip").unlink()


def half_made(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv")
    (checkout.root / ".venv/lib").mkdir(parents=True)


def of_a_removed_python(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin/python").unlink()
    (checkout.root / ".venv/bin/python").symlink_to("/usr/bin/python3.7-that-was-removed")


def of_a_broken_python(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin/python").write_text("#!/bin/sh\nexit 127\n")


def moved(checkout: Checkout) -> None:
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))


def copied(checkout: Checkout) -> None:
    checkout.root = Path(shutil.copytree(checkout.root, checkout.root.with_name("a copy"), symlinks=True))


@pytest.mark.parametrize(
    "happens",
    [
        without_pip,
        without_pip_but_installed,
        half_made,
        of_a_removed_python,
        of_a_broken_python,
        moved,
        copied,
    ],
)
def test_an_unfit_venv_is_made_anew(checkout: Checkout, happens: Callable[[Checkout], None]) -> None:
    happens(checkout)
    assert checkout.setup() == (0, ["venv", "install"])
    assert checkout.setup() == (0, [])


def test_a_first_try_that_made_no_pip(tmp_path: Path) -> None:
    checkout, no_pip = Checkout(tmp_path), tmp_path / "notes.nopip"
    no_pip.touch()
    assert checkout.setup() == (2, ["venv"])
    no_pip.unlink()
    assert checkout.setup() == (0, ["venv", "install"])


def test_an_installation_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    checkout, offline = Checkout(tmp_path), tmp_path / "notes.offline"
    offline.touch()
    assert checkout.setup() == (2, ["venv", "install"])
    assert checkout.setup() == (2, ["install"])
    offline.unlink()
    assert checkout.setup() == (0, ["install"])
    assert checkout.setup() == (0, [])


def test_what_development_needs_follows(checkout: Checkout) -> None:
    assert checkout.setup(".venv/.installed-dev") == (0, ["install"])
    moved(checkout)
    assert checkout.setup(".venv/.installed-dev") == (0, ["venv", "install", "install"])


def test_other_requirements_are_installed_into_the_same_venv(checkout: Checkout) -> None:
    later = (checkout.root / ".venv/.installed").stat().st_mtime + 10
    os.utime(checkout.root / "constraints.txt", (later, later))
    assert checkout.setup() == (0, ["install"])


def test_a_link_to_an_environment_elsewhere_is_used_and_never_cleared(checkout: Checkout, tmp_path: Path) -> None:
    other = checkout.root.rename(tmp_path / "other")
    shutil.copytree(other, checkout.root, ignore=shutil.ignore_patterns(".venv"))
    (checkout.root / ".venv").symlink_to(other / ".venv")
    (other / ".venv/bin/pip").write_text(f"#!{other}/.venv/bin/python\n")
    assert checkout.setup() == (0, [])
    (other / ".venv/bin/pip").unlink()
    assert checkout.setup() == (2, [])
    assert (other / ".venv/bin/python").exists()
