"""Generate the Python code and stubs of every .proto file: `python proto/generate.py [--check]`.

Run from anywhere. With --check nothing is written and the exit code says whether the committed code is current.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
PACKAGE = Path("thinwire/proto/thinwire/v1alpha1")


def generate(into: Path) -> list[Path]:
    """Write the generated modules below `into` and return their paths relative to it."""
    sources = sorted((PROTO / "thinwire/v1alpha1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as root:
        mirror = Path(root) / PACKAGE
        mirror.mkdir(parents=True)
        for source in sources:
            shutil.copy(source, mirror)
        beside = Path(sys.executable).parent
        plugins = [f"--plugin=protoc-gen-{name}={beside / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
        flags = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        well_known = files("grpc_tools").joinpath("_proto")
        status = protoc.main(
            [
                "protoc",
                f"-I{root}",
                f"-I{well_known}",
                *plugins,
                *flags,
                *(str(PACKAGE / source.name) for source in sources),
            ]
        )
    if status:
        raise SystemExit(status)
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the committed code is current")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generated = generate(fresh)
        homes = [PROTO / path.relative_to("thinwire/proto") for path in generated]
        stale = [
            home
            for path, home in zip(generated, homes, strict=True)
            if not home.exists() or not filecmp.cmp(fresh / path, home, shallow=False)
        ]
        stale += [old for old in PROTO.rglob("*_pb2*.py*") if old.suffix != ".pyc" and old not in homes]
        if not stale:
            print(f"{len(homes)} generated files are current")
            return
        if check:
            sys.exit("not current: " + ", ".join(str(p.relative_to(PROTO)) for p in stale) + "; run `make proto`")
        for old in stale:
            old.unlink(missing_ok=True)
        for path, home in zip(generated, homes, strict=True):
            shutil.copy(fresh / path, home)
        print(f"wrote {len(homes)} files")


if __name__ == "__main__":
    main()
