#!/usr/bin/env python3
"""Plants a breach of each kind in a copy of the tree and looks whether check_layers.py finds it.

Usage: check_layers_test.py ROOT. Exits 1 with a line for each breach that was missed.
"""
import pathlib
import shutil
import sys
import tempfile

import check_layers

# kind, file that gets the include, the include, what must be said of it
PLANTED = [
    ("an upward include", "runtime/core/error.cpp", '"moe/transformer.hpp"', "runtime/core may not include moe"),
    ("a sideways include", "memory_pool/client.cpp", '"collectives/token_exchange.hpp"',
     "memory_pool may not include collectives"),
    ("a room from outside", "launch/topo.cpp", '"memory_pool/owner/shard.hpp"', "lies in a room of memory_pool"),
    ("a room of a module above", "moe/placement/placement.cpp", '"moe/products/gemm.hpp"',
     "moe/placement may not include moe"),
    ("the wrong order of rooms", "memory_pool/owner/shard.cpp", '"memory_pool/client/read.hpp"',
     "room owner may not include room client"),
    ("a room on a face", "memory_pool/client.hpp", '"memory_pool/client/read.hpp"', "a face includes no room"),
    ("MPI in a pure room", "moe/products/gemm.cpp", "<mpi.h>", "must not know MPI"),
    ("MPI behind a header of a pure room", "memory_pool/owner/shard.hpp", '"runtime/core/mpi/communicator.hpp"',
     "must not know MPI"),
    ("a library outside its folder", "moe/transformer.cpp", "<hwloc.h>", "belongs inside runtime/core/mpi"),
    ("a path that is not from the root", "moe/transformer.cpp", '"transformer.hpp"', "is not a path from the root"),
]


def main(root):
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for top in sorted({module.split("/")[0] for module in check_layers.MODULES}):
            shutil.copytree(root / top, copy / top, ignore=lambda _, names: [n for n in names if n.endswith(".safetensors")])
        for kind, name, header, said in PLANTED:
            path = copy / name
            text = path.read_text()
            path.write_text(f"#include {header}\n{text}")
            found = [breach for breach in check_layers.breaches_of(copy)[1] if breach.startswith(name) and said in breach]
            path.write_text(text)
            if not found:
                missed.append(f"{kind} was not found: {header} in {name}")
        stray = copy / "moe" / "attic" / "stray.hpp"
        stray.parent.mkdir()
        stray.write_text("#pragma once\n")
        if not any("has no place" in breach for breach in check_layers.breaches_of(copy)[1]):
            missed.append("a room that no table names was not found")
    print("\n".join(missed))
    print(f"{len(PLANTED) + 1} breaches planted, {len(missed)} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
