"""dicomd as a process: what `serve` starts, wires together and ends."""
