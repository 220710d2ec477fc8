"""The networks: tables of layers, the layers themselves and their initialisation."""
