"""DIMSE messages (PS3.7): parsing and encoding of Command Sets, and the status codes. No sockets, files or services."""
