"""The DICOM Upper Layer of an Association acceptor (PS3.8) without any I/O: fed bytes, it says what they mean."""
