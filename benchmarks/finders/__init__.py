"""Parts of the finder benchmark."""
