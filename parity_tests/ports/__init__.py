"""Ports of well-known networks, written as they would be without a comparison in mind, beside their originals."""
