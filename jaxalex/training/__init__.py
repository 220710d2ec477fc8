"""Training: state, optimizer, steps, epochs, checkpoints, reports, and the loop over them."""
