"""Do the suite's intervals cover, and its tests err as rarely as they say? Simulated, where the truth is known."""
