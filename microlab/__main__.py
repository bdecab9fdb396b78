"""`python -m microlab` is `microlab`, with the interpreter that runs it."""

from microlab.cli.main import main

if __name__ == "__main__":  # a worker process imports this file again, and must not start anew
    main(prog_name="microlab")
