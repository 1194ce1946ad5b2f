"""The pictures that rows name: found, read, decoded, and brought to the size of an image."""
