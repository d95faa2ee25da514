"""A worker that pushes ones to all its keys and pulls some, until its input ends. Prints the time of
each acknowledged push.

    pusher.py ENDPOINT NUMBER
"""

import select
import sys
import time

import numpy as np
from conftest import PYTHON_DIR

sys.path.insert(0, str(PYTHON_DIR))
import dimfit  # noqa: E402
from faults import DIM, KEYS, OWN, SHARED, WIDE, own_keys  # noqa: E402

PATIENCE = 60


def main() -> None:
    endpoint, number = sys.argv[1], int(sys.argv[2])
    mine = own_keys(number)
    narrow, wide = np.ones((len(KEYS), 2), np.float32), np.ones((len(KEYS), DIM), np.float32)
    push = {SHARED: (KEYS, narrow), OWN: (mine, narrow), WIDE: (KEYS, wide)}
    with dimfit.connect(endpoint, timeout=PATIENCE) as client:
        while not select.select([sys.stdin], [], [], 0)[0]:
            client.push(push)
            print(f"{time.monotonic():.4f}", flush=True)
            rows = client.pull({OWN: mine[::50]})[OWN]
            assert np.all(rows == rows[0, 0]), "a push was applied to some keys only"


main()
