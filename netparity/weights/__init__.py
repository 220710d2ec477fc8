"""Two checkpoints compared: names, shapes, layouts, and how far the numbers are apart."""
