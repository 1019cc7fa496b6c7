"""What is installed: the four packages whole, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipelines", "trainers", "data", "slurm")


def test_the_wheel_holds_every_module_and_no_tests(tmp_path: Path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    expected = {
        str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    assert held == expected
    # What is read beside the code, such as a page's script and style, must come along.
    beside = [
        p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.suffix in (".html", ".css", ".js")
    ]
    assert beside
    assert {str(path.relative_to(ROOT)) for path in beside} <= set(zipfile.ZipFile(wheel).namelist())
    names = zipfile.ZipFile(wheel).namelist()
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "heliograph = pipelines.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)
