"""From conversations to token ids, labels and pixels: the same for training and for serving."""
