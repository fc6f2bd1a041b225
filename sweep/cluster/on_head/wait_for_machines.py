"""Wait until the Ray cluster at RAY_ADDRESS has N machines; N is the one argument."""

import logging
import sys
import time

import ray

PATIENCE_SECONDS = 300.0


def main(n_machines: int) -> int:
    """Return 0 once they are there; 1: too few have come, and how many is said."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    n_there = 0
    while time.monotonic() < deadline:
        try:
            if not ray.is_initialized():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
            n_there = sum(node["Alive"] for node in ray.nodes())
        except (ConnectionError, RuntimeError, ray.exceptions.RayError):
            n_there = 0  # its head is still starting
        if n_there >= n_machines:
            return 0
        time.sleep(1.0)
    print(f"Ray has {n_there} of {n_machines} machines after {PATIENCE_SECONDS:g} s.", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
