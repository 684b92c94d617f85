#!/usr/bin/env python3
"""Nothing is forgotten: every source stands in its folder's CMakeLists.txt, and every file is formatted.

Usage: check_sources.py ROOT [CLANG_FORMAT]. Exits 1 with one line per finding. Without clang-format 14 the format is not
checked, and the last line says so.
"""
import pathlib
import re
import subprocess
import sys

FOLDERS = ["runtime", "collectives", "memory_pool", "moe", "launch", "tests"]


def main(root, clang_format):
    sources = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.[ch]pp"))
    findings = []
    for source in sources:
        if source.suffix != ".cpp":
            continue
        # A source belongs to a target of its own folder or of one around it.
        lists = [folder / "CMakeLists.txt" for folder in source.parents if folder != root and root in folder.parents]
        names = {path: re.escape(source.relative_to(path.parent).as_posix()) for path in lists if path.exists()}
        if not any(re.search(rf"(?<![\w/.]){name}(?![\w/])", path.read_text()) for path, name in names.items()):
            findings.append(f"{source.relative_to(root)}: in no CMakeLists.txt")
    formatted = "format not checked (no clang-format 14)"
    if clang_format:
        run = subprocess.run([clang_format, "--dry-run", "-Werror", *map(str, sources)], capture_output=True, text=True)
        findings += sorted({line.split(":")[0] + ": not formatted" for line in run.stderr.splitlines() if "error:" in line})
        formatted = "format checked"
    print("\n".join(findings))
    print(f"{len(sources)} files, {len(findings)} findings; {formatted}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else ""))
