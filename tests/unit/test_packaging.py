"""pyproject.toml, requirements.txt and the tree agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.aws.source_code import read_training_code
from catdog.extras import EXTRAS

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
    ours = {_name(r): r for r in wanted if _name(r) not in ("catdog-photos", "torch", "torchvision")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    container = {_name(line): line for line in lines if line and not line.startswith("#")}
    assert container == ours
    assert not {"torch", "torchvision", "sagemaker", "boto3"} & container.keys()


def test_the_core_has_no_heavy_dependency() -> None:
    dependencies = {_name(str(r)) for r in list(_project()["dependencies"])}  # type: ignore[call-overload]
    assert dependencies == {"filelock", "numpy", "onnxruntime", "pillow", "rich", "typer"}


def test_extras_say_what_pyproject_installs() -> None:
    """catdog.extras names the extra for a missing module, so it must know what each one brings."""
    packages = {"pillow-heif": "pillow_heif", "prometheus-client": "prometheus_client", "pyyaml": "yaml"}
    given = dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])

    def modules(extra: str) -> set[str]:
        found = set()
        for requirement in given[extra]:
            if nested := re.match(r"catdog-photos\[(.+)\]", requirement):
                found |= {module for name in nested[1].split(",") for module in modules(name)}
            else:
                found.add(packages.get(_name(requirement), _name(requirement)))
        return found

    assert {name: set(extra.modules) for name, extra in EXTRAS.items()} == {
        name: modules(name) for name in given if name != "dev"
    }


def test_nobody_is_told_to_install_the_stranger_s_package() -> None:
    """PyPI's "catdog" is not ours: every line installs from the checkout or from a wheel."""
    stranger = re.compile(r"""(?:install|uninstall|download)\s+(?:-\S+\s+)*["'`]?catdog(?![-\w./])""")
    texts = [
        path
        for pattern in ("*.md", "*.toml", "*.txt", "*.yaml", ".github/**/*.yml", "Makefile", "docs/**/*.md")
        for path in ROOT.glob(pattern)
    ]
    code = [path for place in ("catdog", "export", "tests", "benchmarks") for path in (ROOT / place).rglob("*.py")]
    said = {
        str(path.relative_to(ROOT)): found[0]
        for path in (*texts, *code)
        if path != Path(__file__) and (found := stranger.search(path.read_text()))
    }
    assert said == {}
    assert [bool(stranger.search(f"pip install {name}")) for name in ("'catdog[score]'", "catdog", "'.[score]'")] == [
        True, True, False,
    ]  # fmt: skip


def test_what_a_training_job_runs_from_can_export(tmp_path: Path) -> None:
    code = "import catdog.export; catdog.export.export; print(catdog.__file__)"
    for name, data in read_training_code().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "catdog" / "__init__.py")


def test_the_architecture_s_tree_is_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
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
