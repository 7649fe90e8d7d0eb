"""Connections: the only code that touches a socket. One blocking thread an Association."""
