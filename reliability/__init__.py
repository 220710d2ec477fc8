"""Long trials of what the tests try for a few minutes: `reliability.fuzz` and `reliability.soak`."""
