"""The commands of `dicomd`: one thin module each, imported only when the command is called."""
