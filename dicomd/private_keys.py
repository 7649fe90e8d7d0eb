"""Private keys with a passphrase can't be used: a daemon has nobody to ask for it."""


class EncryptedKeyError(OSError):
    """The key has a passphrase."""


def refuse_passphrase() -> str:
    """Stand for the passphrase of a key when `ssl` asks for one. Always raises `EncryptedKeyError`."""
    raise EncryptedKeyError(None, "the key has a passphrase, and a daemon has nobody to ask")
