#!/usr/bin/env python3
"""How much of what the pool could have given to the prompts of a run it gave.

Usage: possible_hits.py RESULTS.json [BLOCK_TOKENS]

RESULTS.json is what `supernode serve --format json --save-detailed --save-tokens` printed; BLOCK_TOKENS is
serving.context_block_tokens (16 in quickstart.ini). A block of a prompt was possible when another request with the same
tokens up to the block's end had its first token, which is when its new blocks go to the pool, before this prompt was
begun. The last token of a prompt is always computed. Exits 1 below 95 %, or when a block was dropped.
"""
import json
import sys


def prefixes(tokens, block):
    """The whole blocks of a prompt that may come from the pool, each with all tokens in front of it."""
    return [tuple(tokens[:end]) for end in range(block, len(tokens), block)]


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)["results"]
    block = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    rows = [row for row in results["requests"] if row["ttft_ms"] is not None]
    stored = {}  # prefix -> when it was first in the pool, ms
    for row in rows:
        tokens = row["prompt_token_ids"]
        there = row["arrival_ms"] + row["ttft_ms"]
        for end in range(block, len(tokens) + 1, block):
            prefix = hash(tuple(tokens[:end]))
            stored[prefix] = min(there, stored.get(prefix, there))
    possible = hits = 0
    for row in rows:
        begun = row["arrival_ms"] + row["parts_ms"]["queue"]
        hits += row["hit_tokens"]
        for prefix in prefixes(row["prompt_token_ids"], block):
            if stored[hash(prefix)] > begun:
                break
            possible += block
    pool = results["pool"]
    share = hits / possible if possible else 1.0
    print(f"hit tokens {hits} of {possible} possible ({100 * share:.1f} %), dropped blocks {pool['dropped_blocks']}, "
          f"evicted {pool['miss_reasons'].get('evicted', 0)}")
    return 0 if share >= 0.95 and pool["dropped_blocks"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
