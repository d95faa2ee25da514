"""dimfit: a sparse-embedding parameter server whose embedding widths fit themselves.

    import dimfit
    import numpy as np

    with dimfit.connect("tcp://127.0.0.1:7700") as c:
        keys = np.array([11, 12, 12], dtype=np.uint64)
        rows = c.pull({3: keys})[3]                 # float32 (3, dim)
        c.push({3: (keys, gradients)}, samples=3)   # dL/drows of the mean loss
        c.search(kappa=0.25, wait=True)             # keep a quarter of the parameters

Needs numpy and the C library libdimfit, which is looked for in $DIMFIT_LIB, then in the build tree
that this package lies in, then in the system.
"""

from .client import Call, Client, connect
from .errors import Error
from .layout import Layout, Slot, State, Trial

__version__ = "0.1.0"
__all__ = ["Call", "Client", "Error", "Layout", "Slot", "State", "Trial", "connect"]
