"""pyproject.toml, requirements.txt and the tree agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from catdog.aws.staging import staged

ROOT = Path(__file__).parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[ ;]", requirement, maxsplit=1)[0].lower()


def _project() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def test_the_training_container_gets_what_training_and_export_need_but_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["export"]]
    ours = {_name(r): r for r in wanted if _name(r) not in ("catdog", "torch", "torchvision")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    container = {_name(line): line for line in lines if line and not line.startswith("#")}
    assert container == ours
    assert not {"torch", "torchvision", "sagemaker", "boto3"} & container.keys()


def test_the_core_has_no_heavy_dependency() -> None:
    dependencies = {_name(str(r)) for r in list(_project()["dependencies"])}  # type: ignore[call-overload]
    assert dependencies == {"numpy", "onnxruntime", "pillow", "rich", "typer"}


def test_a_wheel_owns_catdog_and_no_package_named_export(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: pip leaves a build folder where it builds
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("catdog", "export"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "catdog/export/__main__.py" in names
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {"catdog"}


def test_what_a_training_job_runs_from_can_export() -> None:
    code = "import catdog.export; catdog.export.export; print(catdog.__file__)"
    with staged() as folder:
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(folder / "catdog" / "__init__.py")


def test_the_readme_s_tree_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("## The tree") :].split("\n## ", 1)[0]
    listed, folder = set(), ""
    for indent, name in re.findall(r"^    ( *)(\S+)", tree, re.MULTILINE):
        folder = "" if not indent else folder
        listed.add(folder + name)
        folder = name if name.endswith("/") else folder
    assert not [path for path in listed if not (ROOT / path).exists()]
    modules = {
        str(path.relative_to(ROOT))
        for place in ("catdog", "export", "benchmarks")
        for path in (ROOT / place).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= listed, sorted(modules - listed)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
