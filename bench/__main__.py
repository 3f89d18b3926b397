"""Run one benchmark: every module of this package that defines `main(arguments)` is one, under its own name."""

import ast
import importlib
import sys
from pathlib import Path


def descriptions() -> dict[str, str]:
    """Return name -> first line of the docstring, without importing anything."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return found


def main(arguments: list[str]) -> int:
    known = descriptions()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m bench NAME [options]\n")
        for name, description in known.items():
            print(f"  {name:12} {description}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in known:
        print(f"benchmark: expected one of {', '.join(known)}, got {name!r}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"bench.{name}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
