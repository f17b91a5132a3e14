"""Say what a wheel or a source distribution lacks of what it must hold; exits 1 where it lacks anything."""

import sys
import tarfile
import zipfile
from pathlib import Path

RECIPES = {path.name for path in Path("recipes").glob("*.yaml")}
DATA = {str(path) for path in Path("topiclora_cli").rglob("*") if path.suffix in (".yaml", ".j2", ".typed")}
IN_WHEEL = {f"topiclora_cli/recipes/{name}" for name in RECIPES} | DATA
IN_SOURCES = {f"recipes/{name}" for name in RECIPES} | DATA | {"README.md", "LICENSE", "mkdocs.yml", "docs/index.md"}


def lacking(package: str) -> set[str]:
    """What must be in a package and is not."""
    if package.endswith(".whl"):
        held = set(zipfile.ZipFile(package).namelist())
        licence = any(name.endswith(".dist-info/licenses/LICENSE") for name in held)
        return IN_WHEEL - held | (set() if licence else {"LICENSE"})
    with tarfile.open(package) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    return IN_SOURCES - held


if __name__ == "__main__":
    faults = [f"{package} lacks {name}" for package in sys.argv[1:] for name in sorted(lacking(package))]
    sys.exit("\n".join(faults) or 0)
