"""What each command of `kws` does: load, call one function, show what came of it, say the exit code."""
