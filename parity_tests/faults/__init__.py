"""Planted faults: mistakes made on purpose, each of which the comparison must find."""
