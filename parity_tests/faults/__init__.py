"""Planted faults: what a check that cannot fail would miss."""
