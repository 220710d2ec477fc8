"""Networks compared from the public functions alone."""
