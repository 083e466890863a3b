"""Imports run one way, and the code location loads without anything heavy."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

ROOT = Path(__file__).parents[2]
LAYERS = ("finstill", "assets", "pipelines")
ROOMS = (
    "config", "inference", "corpus", "cache", "teacher", "augment", "students", "training", "serving", "evaluation",
    "packaging", "tuning", "preflight",
)  # fmt: skip
"""The library's sub-packages: each imports those before it alone, and modules at the top import none."""

HEAVY = ("torch", "transformers", "onnxruntime", "polars", "duckdb", "matplotlib", "optuna")


def imported(file: Path) -> set[str]:
    """Return the top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def modules_imported(file: Path) -> set[str]:
    """Return the modules that a file imports from, inside functions too."""
    return {
        node.module
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
    }


def rooms_imported(file: Path) -> set[str]:
    """Return the sub-packages of finstill that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "finstill":
            names |= {f"finstill.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.startswith("finstill.")]
    return {found[1] for found in parts if found[1] in ROOMS}


def test_every_sub_package_of_the_library_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "finstill").glob("*/__init__.py")}
    assert folders - {"data"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_sub_package_imports_one_above_it(room: str) -> None:
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    files = list((ROOT / "finstill" / room).rglob("*.py"))
    wrong = {str(file.relative_to(ROOT)): rooms_imported(file) & above for file in files}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_modules_at_the_top_import_no_sub_package_but_the_commands() -> None:
    loose = {file.name: rooms_imported(file) for file in (ROOT / "finstill").glob("*.py")}
    assert {name for name, rooms in loose.items() if rooms} == {"cli.py"}


@pytest.mark.parametrize(
    ("layer", "forbidden"), [("finstill", {"assets", "pipelines", "dagster"}), ("assets", {"pipelines"})]
)
def test_imports_run_from_pipelines_to_assets_to_finstill(layer: str, forbidden: set[str]) -> None:
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): imported(file) & forbidden for file in files}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_no_circle_of_modules_in_pipelines() -> None:
    """Inside functions too: a module can be read, tested and moved without those that use it."""
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "pipelines").rglob("*.py")
    }
    uses = {name: modules_imported(file) & modules.keys() for name, file in modules.items()}
    assert len(list(TopologicalSorter(uses).static_order())) == len(modules)


def test_the_code_location_loads_nothing_heavy() -> None:
    program = f"import sys, pipelines.definitions; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"
    assert loaded.stderr == ""


def test_dg_finds_the_definitions_without_a_warning(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", tmp_path)
    dg = Path(sys.executable).parent / "dg"
    environment = {"PATH": f"{dg.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}
    checked = subprocess.run([dg, "check", "defs"], capture_output=True, text=True, cwd=ROOT, env=environment)
    output = checked.stdout + checked.stderr
    assert checked.returncode == 0, output
    assert "warning" not in output.lower(), output
    assert "loaded successfully" in output, output


def test_every_asset_says_what_it_is() -> None:
    from pipelines.definitions import defs

    specs = list(defs.resolve_asset_graph().get_all_asset_keys())
    graph = defs.resolve_asset_graph()
    assert len(specs) == 20
    for key in specs:
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name != "default", key
        assert node.code_version, key


@pytest.mark.parametrize("job", ["label", "nightly_redistillation", "tune"])
def test_what_may_take_days_is_not_cut_off_as_other_runs_are(job: str) -> None:
    from pipelines.definitions import defs

    settings = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    own = int(defs.resolve_job_def(job).tags[MAX_RUNTIME_SECONDS_TAG])
    assert own > settings["run_monitoring"]["max_runtime_seconds"]


GROUPS = ("corpus", "teacher", "augmentation", "labelling", "students", "evaluation", "service")


def test_groups_of_assets_follow_one_another() -> None:
    """No asset reads what a later group makes: above all, the corpus knows no teacher."""
    from pipelines.definitions import defs

    graph = defs.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
    assert {node.group_name for node in nodes} == set(GROUPS)
    arrows = {(graph.get(parent).group_name, node.group_name) for node in nodes for parent in node.parent_keys}
    assert {(start, end) for start, end in arrows if GROUPS.index(start) > GROUPS.index(end)} == set()
