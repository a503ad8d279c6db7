"""Which modules of the standard library are the most intricate? Every one is parsed and measured, on the fleet.

Run it as it is: ``python examples/intricate.py`` (a private sandbox does the work), or with ``WREN_BACKEND=sqs`` on
your own instances. Nothing in ``measure`` knows where it runs; it needs nothing installed but Python.
"""

import ast
import sysconfig
from pathlib import Path

import wren_worker as wren

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.With, ast.BoolOp, ast.comprehension, ast.Match)


def standard_library() -> list[tuple[str, bytes]]:
    """Return (module path, source) of every .py file of the running Python, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "idlelib", "site-packages", "dist-packages", "lib2to3", "__pycache__"}
    files = (path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts))
    return [(str(path.relative_to(root)), path.read_bytes()) for path in files]


def measure(item: tuple[str, bytes]) -> dict[str, object]:
    """Parse one module and count what makes it hard to read."""
    name, source = item
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    branches = {id(f): sum(isinstance(node, BRANCHES) for node in ast.walk(f)) for f in functions}
    worst = max(functions, key=lambda f: branches[id(f)], default=None)
    print(f"{name}: {len(functions)} functions")
    return {
        "module": name,
        "lines": source.count(b"\n"),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        "branches": sum(isinstance(node, BRANCHES) for node in ast.walk(tree)),
        "longest": max((f.end_lineno - f.lineno + 1 for f in functions), default=0),
        "worst": worst.name if worst else "",
        "worst_branches": branches[id(worst)] if worst else 0,
    }


def most_intricate(measures: list[dict[str, object]], n: int = 10) -> list[dict[str, object]]:
    """Reduce the measures to the modules with the most branches."""
    return sorted(measures, key=lambda m: m["branches"], reverse=True)[:n]


if __name__ == "__main__":
    with wren.executor() as executor:
        measures = wren.get_all_results(executor.map(measure, standard_library()))
    for row in most_intricate(measures):
        worst = f"{row['worst_branches']} in {row['worst']}()"
        print(f"{row['module']:32} {row['lines']:6} lines {row['branches']:5} branches, {worst}")
