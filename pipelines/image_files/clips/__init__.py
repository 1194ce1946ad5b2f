"""Files of clips: animated WebP and MP4 with H.264, written frame by frame and read back."""
