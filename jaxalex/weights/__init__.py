"""Parameters in PyTorch's layout and names, and the files that hold them."""
