"""dicomd: a DICOM Storage SCP that runs as a proper Linux service."""

__version__ = "0.1.0"
