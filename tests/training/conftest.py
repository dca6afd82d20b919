"""Lightning, made importable before any test here needs it, and one thread: more only wait for each other."""

import torch
from importable import make_importable

torch.set_num_threads(1)  # tests/nets.py does it too, but is not imported where this folder is tested alone
make_importable()
