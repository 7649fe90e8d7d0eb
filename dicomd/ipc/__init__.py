"""What the daemon's processes share: memory, channels, signals and metric files."""
