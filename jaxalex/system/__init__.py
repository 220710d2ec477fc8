"""The machine around a run: files, locks, signals, memory, devices, versions, the compilation cache."""
