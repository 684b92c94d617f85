#!/usr/bin/env python3
"""The rooms of the house: who may include whom, and what knows no MPI.

Usage: check_layers.py ROOT. Exits 1 with one line per breach. tests/check_layers_test.py plants breaches and looks
whether they are found.

A module is a folder with a face: the headers that lie in the folder itself, which modules above it may include. All
other folders are rooms of the module that they lie in: only that module and its tests include them. A room may include
its module's face and the rooms to its right in ROOMS. A face includes no room of its own module.
"""
import pathlib
import re
import sys

# Folder of a module -> modules whose faces it may include, besides its own.
CORE = ["runtime/core"]
CORE_MPI = CORE + ["runtime/core/mpi"]
EMULATION = ["runtime/emulation", "runtime/emulation/machine"]
EXCHANGE = ["collectives", "collectives/selection", "collectives/traffic"]
MOE = ["moe", "moe/placement", "moe/text"]
MODULES = {
    "runtime/core": [],
    "runtime/core/mpi": CORE,
    "runtime/emulation/machine": CORE,
    "runtime/emulation": CORE + ["runtime/emulation/machine"],
    "runtime/emulation/validation": CORE + EMULATION,
    "collectives/selection": CORE,
    "collectives/traffic": CORE + ["collectives"],
    "collectives": CORE_MPI + ["collectives/selection"],
    "collectives/benchmark": CORE_MPI + EMULATION + EXCHANGE,
    "memory_pool": CORE_MPI + EMULATION,
    "moe/placement": CORE + ["collectives"],
    "moe/text": CORE + ["moe"],
    "moe": CORE_MPI + EMULATION + EXCHANGE + ["moe/placement", "moe/text"],
    "runtime/serving/load": CORE + ["moe"],
    "runtime/serving/record": CORE + EMULATION + ["runtime/serving/load"],
    "runtime/serving": CORE_MPI + EMULATION + EXCHANGE + ["memory_pool"] + MOE + ["runtime/serving/load",
                       "runtime/serving/record"],
    "launch": CORE_MPI + EMULATION + ["runtime/emulation/validation"] + EXCHANGE + ["collectives/benchmark",
              "memory_pool"] + MOE + ["runtime/serving", "runtime/serving/load", "runtime/serving/record"],
}
# Module -> its rooms from left to right: each may include those to its right. Rooms in one string, split by a blank, are
# beside each other and do not know one another.
ROOMS = {
    "runtime/core": ["hdf5"],
    "collectives": ["benchmark", "algorithms", "rows"],
    "collectives/benchmark": ["measuring"],
    "memory_pool": ["benchmark", "client", "transport", "owner", "files", "format"],
    "moe": ["model", "operators", "products", "checkpoint"],
    "runtime/serving": ["runs", "fleet", "workers coordinator", "wire"],
}
# Nothing in these folders reaches mpi.h, directly or through what it includes.
PURE = ["runtime/core", "runtime/core/hdf5", "runtime/emulation", "runtime/emulation/machine",
        "runtime/emulation/validation", "collectives/rows", "collectives/selection", "collectives/traffic",
        "memory_pool/owner", "memory_pool/files", "memory_pool/format", "moe/checkpoint", "moe/operators",
        "moe/placement", "moe/products", "moe/text",
        "runtime/serving/coordinator", "runtime/serving/load", "runtime/serving/record", "runtime/serving/wire"]
# Pattern of a system header -> the only folders that may include it.
ONLY_IN = {
    r"mpi\.h": None,  # any folder that is not pure
    r"hwloc\.h": "runtime/core/mpi",
    r"(hdf5|H5\w*)\.h": "runtime/core",
    r"boost/.*": "runtime/core",
    r"(oneapi/)?dnnl.*": "moe",
}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def module_of(path):
    """The innermost module that a file belongs to; None for files of no module."""
    folders = [folder for folder in MODULES if path.startswith(folder + "/")]
    return max(folders, key=len) if folders else None


def room_of(path):
    """The folder between a file and its module; '' for the module's own folder."""
    return path[len(module_of(path)) + 1:].rpartition("/")[0]


def order_of(module, room):
    for place, names in enumerate(ROOMS.get(module, [])):
        if room in names.split():
            return place
    return None


def check_include(name, header):
    """What is wrong with `name` including our `header`; None when nothing is."""
    module, room = module_of(name), room_of(name)
    target, target_room = module_of(header), room_of(header)
    if target != module:
        if target not in MODULES[module]:
            return f"{module} may not include {target} ({header})"
        if module.startswith(target + "/"):  # a room with a face of its own still is a room of the module around it
            room = module[len(target) + 1:]
            if order_of(target, room) is not None and (order_of(target, target_room) or -1) > order_of(target, room):
                return None
        if target_room:
            return f"{header} lies in a room of {target}, not on its face"
        return None
    if not target_room or target_room == room:
        return None
    if not room:
        return f"a face includes no room of its module ({header})" if name.endswith(".hpp") else None
    if order_of(module, target_room) <= order_of(module, room):
        return f"room {room} may not include room {target_room} ({header})"
    return None


def chain_to_mpi(name, files, seen):
    for _, header in files.get(name, []):
        if header == "mpi.h":
            return [name]
        if header in files and header not in seen:
            seen.add(header)
            chain = chain_to_mpi(header, files, seen)
            if chain:
                return [name, *chain]
    return None


def breaches_of(root):
    files = {}
    for top in sorted({module.split("/")[0] for module in MODULES}):
        for path in sorted((root / top).rglob("*.[ch]pp")):
            files[path.relative_to(root).as_posix()] = INCLUDE.findall(path.read_text())
    breaches = []
    for name, includes in files.items():
        module = module_of(name)
        if module is None:
            breaches.append(f"{name}: belongs to no module of tests/check_layers.py")
            continue
        if room_of(name) and order_of(module, room_of(name)) is None:
            breaches.append(f"{name}: room '{room_of(name)}' of {module} has no place in tests/check_layers.py")
            continue
        for quote, header in includes:
            if quote == '"':
                if module_of(header) is None or header not in files:
                    breaches.append(f"{name}: include \"{header}\" is not a path from the root")
                elif room_of(header) and order_of(module_of(header), room_of(header)) is None:
                    pass  # said once, for the header itself
                elif wrong := check_include(name, header):
                    breaches.append(f"{name}: {wrong}")
            for pattern, owner in ONLY_IN.items():
                if owner and re.fullmatch(pattern, header) and not name.startswith(owner + "/"):
                    breaches.append(f"{name}: <{header}> belongs inside {owner}")
        if name.rpartition("/")[0] in PURE:
            if chain := chain_to_mpi(name, files, {name}):
                breaches.append(f"{name} must not know MPI, but: {' -> '.join(chain)} -> mpi.h")
    return len(files), breaches


if __name__ == "__main__":
    count, found = breaches_of(pathlib.Path(sys.argv[1]).resolve())
    for breach in found:
        print(breach)
    print(f"{count} files, {len(found)} breaches of the rooms")
    sys.exit(1 if found else 0)
