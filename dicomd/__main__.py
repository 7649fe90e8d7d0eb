"""`python -m dicomd` is the command `dicomd`."""

from dicomd.cli.main import main

if __name__ == "__main__":
    main(prog_name="dicomd")
