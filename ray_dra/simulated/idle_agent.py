"""What runs in place of Ray's dashboard agent beside each embedded raylet: nothing, until the raylet is gone.

A raylet insists on an agent and ends when its agent does. Started by path, with the standard library alone.
"""

import os
import time

if __name__ == "__main__":
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)
