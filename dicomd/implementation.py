"""Identifies this implementation, in Association negotiation (PS3.7 §D.3.3.2) and in File Meta (PS3.10 §7.1).

Both places use the same two values, defined here.
"""

from __future__ import annotations

from typing import Final

from dicomd import __version__

# Derived once from a random UUID (PS3.5 §B.2); it names the implementation, not the version, and never changes.
IMPLEMENTATION_CLASS_UID: Final = "2.25.276047018018606114129508478604514277472"

# Of VR SH: at most 16 characters.
IMPLEMENTATION_VERSION_NAME: Final = f"DICOMD_{__version__.replace('.', '')}"[:16]
