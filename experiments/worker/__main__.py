"""`python -m experiments.worker STAGE_DIR`."""

from experiments.worker.main import main

if __name__ == "__main__":
    main()
