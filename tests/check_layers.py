#!/usr/bin/env python3
"""The floors of the house: which module may include which, and which files may know MPI, hwloc, HDF5, Boost, oneDNN.

Usage: check_layers.py ROOT. Exits 1 with one line per breach.
"""
import pathlib
import re
import sys

MODULES = {  # folder -> folders it may include besides itself
    "runtime/core": [],
    "runtime/emulation": ["runtime/core"],
    "collectives": ["runtime/core", "runtime/emulation"],
    "memory_pool": ["runtime/core", "runtime/emulation"],
    "moe": ["runtime/core", "runtime/emulation", "collectives"],
    "runtime/serving": ["runtime/core", "runtime/emulation", "collectives", "memory_pool", "moe"],
    "launch": ["runtime/core", "runtime/emulation", "collectives", "memory_pool", "moe", "runtime/serving"],
}
ONLY_IN = {  # pattern of a system header -> the only folder that may include it
    r"hwloc\.h": "runtime/core",
    r"(hdf5|H5\w*)\.h": "runtime/core",
    r"boost/.*": "runtime/core",
    r"(oneapi/)?dnnl.*": "moe",
}
# Headers and sources without MPI, directly or through anything they include. Folders end in '/'.
PURE = [line.strip() for line in (pathlib.Path(__file__).parent / "pure_files.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")]

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def module_of(path):
    for module in MODULES:
        if path.startswith(module + "/"):
            return module
    return None


def main(root):
    files = {}
    for module in MODULES:
        for path in (root / module).rglob("*.[ch]pp"):
            files[path.relative_to(root).as_posix()] = INCLUDE.findall(path.read_text())
    breaches = []
    for name, includes in sorted(files.items()):
        module = module_of(name)
        for quote, header in includes:
            if quote == '"':
                target = module_of(header)
                if target is None or not (root / header).exists():
                    breaches.append(f"{name}: include \"{header}\" is not a path from the root")
                elif target != module and target not in MODULES[module]:
                    breaches.append(f"{name}: {module} may not include {target} ({header})")
                elif "/internal/" in header and target != module:
                    breaches.append(f"{name}: {header} is internal to {target}")
            for pattern, owner in ONLY_IN.items():
                if re.fullmatch(pattern, header) and module != owner:
                    breaches.append(f"{name}: <{header}> belongs inside {owner}")

    def reaches_mpi(name, seen):
        for _, header in files.get(name, []):
            if header == "mpi.h":
                return [name]
            if header in files and header not in seen:
                seen.add(header)
                chain = reaches_mpi(header, seen)
                if chain:
                    return [name, *chain]
        return None

    for entry in PURE:
        members = [f for f in files if f == entry or (entry.endswith("/") and f.startswith(entry))]
        if not members:
            breaches.append(f"tests/pure_files.txt: nothing matches '{entry}'")
        for member in members:
            chain = reaches_mpi(member, {member})
            if chain:
                breaches.append(f"{member} must not know MPI, but: {' -> '.join(chain)} -> mpi.h")
    for breach in breaches:
        print(breach)
    print(f"{len(files)} files, {len(breaches)} breaches of the floors")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
