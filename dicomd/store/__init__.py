"""The store: Data Sets as received become durable Part 10 files, each complete under its final name or absent.

Nothing in here knows a socket, a Presentation Context or a status code: ``store.types`` says what goes in and what
comes out, ``store.errors`` what can go wrong, ``store.filesystem`` is the store on a local file system.
"""
