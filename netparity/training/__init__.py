"""Training in lockstep: steps of both networks side by side, and what explains a difference of their optimizers."""
