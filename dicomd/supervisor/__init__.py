"""The daemon's first process, which owns the sockets, starts and replaces its children, and reloads."""
