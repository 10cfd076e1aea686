"""``python -m fedfit``: the command line, as ``accelerate launch -m fedfit`` starts it."""

from fedfit.cli import app

if __name__ == "__main__":
    app()
