"""Communication between the daemon's processes: shared memory, channels, signals and metric files."""
