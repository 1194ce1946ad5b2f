"""Pictures that condition an image: modes, pipelines for them, and their call arguments."""
