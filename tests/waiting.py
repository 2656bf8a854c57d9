"""How long the tests wait for other processes."""

PATIENCE = 1800  # seconds; only what hangs takes longer, also where other programs have the cores
