"""Documents topic -> encoder -> embeddings topic."""

import os

# oneDNN compiles a product for each shape it meets, and keeps half a megabyte of it. torch keeps 1,024 a
# thread and oneDNN as many again, and packed passages have many shapes: over a million short ones a daemon
# grew by a gigabyte. A batch needs some fifty, in all layers the same: with 128 in all it is as fast, and
# grows no more. Both are read when torch loads, so they are set before anything here imports it.
os.environ.setdefault("LRU_CACHE_CAPACITY", "1")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
