"""The commands: one module each, thin, imported when the command is called."""
