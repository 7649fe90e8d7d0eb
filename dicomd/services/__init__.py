"""Carries out DIMSE requests: a request goes in, a status comes out (PS3.7 §9.1). Owns no socket and no file."""
