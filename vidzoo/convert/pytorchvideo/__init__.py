"""State dicts of pytorchvideo's networks to ours and back: one file per family of networks."""
