"""What a DIMSE request asks for: a request in, a status out (PS3.7 §9.1). Owns no socket and no file."""
