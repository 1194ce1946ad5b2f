"""The equations of diffusion, each with its source, and arithmetic that all layers share."""
