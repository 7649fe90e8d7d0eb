"""The daemon's first process: it owns the sockets, starts and replaces its children, and reloads."""
