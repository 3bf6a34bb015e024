"""Where torch is: data on the device, models, optimizers, the training loop and the range test."""
