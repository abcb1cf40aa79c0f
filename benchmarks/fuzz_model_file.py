"""Mutate a model file many times: every mutant must be refused in one line, or be a valid model.

Blind mutants (bit flips, truncations, insertions, splices) that are accepted must equal the original. Sealed mutants,
whose hashes are made right again as an attacker would, may be accepted only if they are what the writer writes.

    python benchmarks/fuzz_model_file.py --mutations 100000
"""

import argparse
import base64
import hashlib
import json
import random
import struct
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from graph_examples import every_node

from quantunet.errors import UserError
from quantunet.ir.packed_file import decode_model, encode_model

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 9, 31, 32, 255, 2**31 - 1, -(2**31), 2**31, 2**63, 10**30, 0.0, 1.0, -0.5, 1e308, True]
OTHERS = [
    None,
    "",
    "u4",
    "s8",
    "u32",
    "s33",
    "u0",
    "s8n",
    "conv",
    "concat",
    "image",
    "__metadata__",
    [],
    {},
    [0],
    [0, 0],
]


def blind_mutant(rng: random.Random, data: bytes) -> bytes:
    """One to four bit flips, a cut, an insertion, a removal, or a piece copied elsewhere."""
    mutant, place = bytearray(data), rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randint(1, 4)):
                mutant[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del mutant[place:]
        case 2:
            mutant[place:place] = rng.randbytes(rng.randint(1, 16))
        case 3:
            del mutant[place : place + rng.randint(1, 16)]
        case 4:
            source, length = rng.randrange(len(data)), rng.randint(1, 64)
            mutant[place : place + length] = data[source : source + length]
    return bytes(mutant)


def sealed_mutant(rng: random.Random, data: bytes) -> bytes:
    """One value of the graph's document, or one byte of the payload, changed, and all hashes made right again."""
    length = struct.unpack_from("<Q", data)[0]
    header, payload = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    document = json.loads(header["__metadata__"]["quantunet"])
    if rng.random() < 0.3:
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    else:
        change(rng, document)
    for record in document["nodes"] if isinstance(document.get("nodes"), list) else []:
        if isinstance(record, list) and len(record) > 1 and isinstance(record[1], str) and record[1] in header:
            begin, end = header[record[1]].get("data_offsets", (0, 0))
            if begin < end:
                record[-1] = base64.b64encode(hashlib.sha256(payload[begin:end]).digest()).decode()
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    seal = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    header["__metadata__"] = {"quantunet": text, "sha256": seal}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + payload


def change(rng: random.Random, value: dict | list) -> None:
    """Replace, remove, double or exchange one item somewhere below ``value``."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(value[key], dict | list) or rng.random() < 0.15:
            break
        value = value[key]
    match rng.randrange(4) if isinstance(value, list) else 0:
        case 0 if isinstance(value[key], int) and rng.random() < 0.5:
            value[key] += rng.choice((-1, 1))
        case 0:
            value[key] = rng.choice(NUMBERS + OTHERS)
        case 1:
            del value[key]
        case 2:
            value.insert(key, value[key])
        case 3:
            other = rng.choice(keys)
            value[key], value[other] = value[other], value[key]


def fuzz(mutations: int, seed: int) -> tuple[Counter[str], str]:
    """Counts by outcome, and the seed and text of the first fault."""
    originals = [encode_model(every_node(0, True, True)), encode_model(every_node(1, False, False))]
    counts: Counter[str] = Counter(refused=0, accepted_equal=0, accepted_valid=0, accepted_different=0, crashes=0)
    fault = ""
    for number in range(mutations):
        rng = random.Random(f"{seed} {number}")
        original, sealed = rng.choice(originals), rng.random() < 0.5
        mutant = sealed_mutant(rng, original) if sealed else blind_mutant(rng, original)
        try:
            same = encode_model(decode_model(mutant)) == mutant
        except UserError as error:
            outcome = "refused" if "\n" not in str(error) else "crashes"
        except Exception as error:
            outcome, fault = "crashes", fault or f"mutation {number}: {type(error).__name__}: {error}"
        else:
            outcome = "accepted_equal" if mutant == original else "accepted_valid" if sealed and same else ""
            outcome = outcome or "accepted_different"
        counts[outcome] += 1
    return counts, fault


def main() -> int:
    """Run and print; exit status 1 where a mutant crashed the reader or passed as another model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    started = time.monotonic()
    counts, fault = fuzz(arguments.mutations, arguments.seed)
    seconds = time.monotonic() - started
    if arguments.json:
        print(
            json.dumps({"mutations": arguments.mutations, **counts, "time_s": round(seconds, 1), "first_fault": fault})
        )
    else:
        print(
            f"{arguments.mutations} mutations in {seconds:.0f} s: " + ", ".join(f"{n} {k}" for k, n in counts.items())
        )
        print(fault or "no fault")
    return int(bool(counts["crashes"] or counts["accepted_different"]))


if __name__ == "__main__":
    sys.exit(main())
