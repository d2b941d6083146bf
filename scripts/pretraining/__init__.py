"""How the embedded model learned to read: pages, labels, heads, loop. See pretrain_embedded.py."""
