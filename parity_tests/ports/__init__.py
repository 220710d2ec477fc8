"""Ports of published networks, written as anyone would write them and not for a comparison."""
