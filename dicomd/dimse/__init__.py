"""DIMSE messages (PS3.7): Command Sets in and out, and the status codes. Knows no socket, no file and no service."""
